; ---
; title = "A second address space: mmuext_op NEW_BASEPTR, and MOV to CR3"
; modes = ["pv"]
;
; [expect]
; console = """
; Second address space: the private page reads 00005eed
; First address space: nothing there, page fault error 00000000
; MOV to CR3 does the same by trap and emulation: 00005eed
; CR3 reads as the machine address of the directory.
; CR3 takes no frame that is not a directory: #GP(0).
; """
;
; [expect.hypercalls]
; mmuext_op = 2
;
; [expect.exits]
; pf = 1
; gp = 4
; ---
; A kernel switches processes by loading another page directory. It makes one out of an ordinary page: the entries
; of its own half are copied, the private ones added, the page is mapped read-only, and NEW_BASEPTR asks Xen to
; validate and load it. Xen fills the top slots with its own entries: the hypervisor is mapped in every address
; space, so that an exit need not switch it (arch/x86/mm.c, alloc_l2_table).
;
; An unported MOV to CR3 is privileged, faults, and ends in the same function. Its operand is a machine address; a
; frame that is no page directory gives #GP(0) since 3.0.4 (3.0.0 ignored the failure, and took the operand for a
; frame number).

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

PRIVATE = 0x40000000

.macro switch_to frame
    mov dword ptr [operation], MMUEXT_NEW_BASEPTR
    mov dword ptr [operation + MMUEXT_OP_ARG1], \frame
    hypercall mmuext_op, operation, 1, 0, DOMID_SELF
    expect_eq eax, 0
.endm

start:
    try_begin
    memory_begin
    mov dword ptr [secret], 0x5EED
    page_entry secret, PAGE_KERNEL
    mov [table], eax
    remap table, PAGE_READONLY

    ; The kernel's half: all directory entries below Xen's.
    mov esi, [memory_tables]
    mov edi, directory
    mov ecx, HYPERVISOR_VIRT_START >> 22
    cld
    rep movsd
    page_entry table, PAGE_TABLE
    mov [directory + (PRIVATE >> 22) * 4], eax
    remap directory, PAGE_READONLY
    machine_frame directory
    mov ebp, eax
    machine_frame [memory_tables]
    mov edi, eax

    switch_to ebp
    print_text "Second address space: the private page reads "
    print_hex dword ptr [PRIVATE]
    print_text "\n"
    switch_to edi
    page_faults PRIVATE, 0, mov eax, [PRIVATE]
    print_text "First address space: nothing there, page fault error "
    print_hex dword ptr [try_error]
    print_text "\n"

    shl ebp, PAGE_SHIFT
    shl edi, PAGE_SHIFT
    mov cr3, ebp
    print_text "MOV to CR3 does the same by trap and emulation: "
    print_hex dword ptr [PRIVATE]
    print_text "\n"
    mov eax, cr3
    expect_eq eax, ebp
    mov cr3, edi
    print_text "CR3 reads as the machine address of the directory.\n"
    page_entry table, 0
    raises VECTOR_GP, 0, mov cr3, eax
    print_text "CR3 takes no frame that is not a directory: #GP(0).\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
operation: .long 0, 0, 0

page shared_info
page secret
page table
page directory
