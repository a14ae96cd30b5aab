; ---
; title = "Page tables that seem writable: vm_assist type 2"
; modes = ["pv"]
;
; [expect]
; console = """
; Without the assistance a store into a page table is the kernel's fault.
; With it MOV, OR, AND, XCHG, BTR and CMPXCHG change the entry; the kernel sees no fault.
; What the hypercall would refuse is the kernel's fault again.
; So is a directory entry, and everything after the assistance is off.
; """
;
; [expect.exits]
; # six stores done by Xen, five that the kernel got
; pf = 11
;
; [expect.hypercalls]
; vm_assist = 3
; mmu_update = 0
; ---
; A kernel that was ported in a hurry writes its page tables with plain instructions. They are mapped read-only, so
; each store faults: present, write, supervisor. If the kernel asked for it, Xen looks at the fault first: when the
; address is an entry of an L1 table, it decodes the instruction, checks the new entry like any other, and completes
; the store (arch/x86/mm.c, ptwr_do_page_fault). Convenient, and one trap for each entry: 600-multicall.asm shows
; the quick way.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

; L1 entries have A and D set by the CPU as it uses them: they are left out of comparisons.
.macro expect_entry wanted
    mov eax, [ebp]
    and eax, 0xFFFFFFFF - PTE_A - PTE_D
    mov edx, \wanted
    and edx, 0xFFFFFFFF - PTE_A - PTE_D
    expect_eq eax, edx
.endm

start:
    try_begin
    memory_begin
    ; EBP = linear address of the entry for `target`, in the table that maps the first 4 MiB.
    mov ebp, [memory_tables]
    add ebp, PAGE_SIZE + (target >> PAGE_SHIFT) * 4
    page_entry target, PAGE_KERNEL
    mov esi, eax

    raises VECTOR_PF, 3, mov dword ptr [ebp], 0
    expect_entry esi
    print_text "Without the assistance a store into a page table is the kernel's fault.\n"

    hypercall vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables
    expect_eq eax, 0
    page_entry target, PAGE_READONLY
    mov [ebp], eax
    expect_entry eax
    or dword ptr [ebp], PTE_RW
    page_entry target, PAGE_KERNEL
    expect_entry eax
    and dword ptr [ebp], 0xFFFFFFFF - PTE_P
    page_entry target, PTE_RW
    expect_entry eax
    page_entry target, PAGE_KERNEL
    xchg eax, [ebp]
    test eax, PTE_P                              ; XCHG gave the old entry, which was absent
    setnz al
    movzx eax, al
    expect_eq eax, 0
    lock btr dword ptr [ebp], 1                  ; RW is bit 1
    page_entry target, PAGE_READONLY
    expect_entry eax
    mov eax, [ebp]
    mov ecx, eax
    or ecx, PTE_RW
    lock cmpxchg [ebp], ecx
    page_entry target, PAGE_KERNEL
    expect_entry eax
    mov dword ptr [target], 1                    ; and the CPU agrees: the page is writable
    print_text "With it MOV, OR, AND, XCHG, BTR and CMPXCHG change the entry; the kernel sees no fault.\n"

    page_entry [memory_tables], PAGE_KERNEL
    raises VECTOR_PF, 3, mov [ebp], eax
    raises VECTOR_PF, 3, mov dword ptr [ebp], PAGE_KERNEL
    page_entry target, PAGE_KERNEL
    expect_entry eax
    print_text "What the hypercall would refuse is the kernel's fault again.\n"

    mov edi, [memory_tables]
    raises VECTOR_PF, 3, mov dword ptr [edi + 0x400], 0
    hypercall vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables
    expect_eq eax, 0
    raises VECTOR_PF, 3, mov dword ptr [ebp], 0
    hypercall vm_assist, VMASST_CMD_enable, 99
    expect_error EINVAL
    print_text "So is a directory entry, and everything after the assistance is off.\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines

page shared_info
page target
