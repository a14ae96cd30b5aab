; ---
; title = "A page directory that is its own page table: every entry in sight, none in reach"
; modes = ["pv"]
;
; [expect]
; console = """
; With RW the self-reference is refused, without it is taken.
; The entry of this page, seen at its place in the linear table, is right.
; An update by hypercall shows there at once.
; A write there is a page fault: error 00000003
; """
;
; [expect.exits]
; pf = 1
;
; [expect.hypercalls]
; mmu_update = 2
; ---
; An old trick: put the directory into one of its own slots. The CPU then walks it as if it were a page table, and
; all page tables of the address space appear as one array of 1024 * 1024 entries, here from 0x80000000 on. Entry n,
; for the page at n * 4096, is the dword at 0x80000000 + 4 * n.
;
; Xen allows it read-only (arch/x86/mm.c, get_linear_pagetable): a page directory that counts as a page table must not
; become writable by it.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

LINEAR = 0x80000000

start:
    try_begin
    memory_begin
    page_entry [memory_tables], PAGE_TABLE
    mov ebp, eax
    directory_entry LINEAR
    update_entry eax, ebp
    expect_error EINVAL
    and ebp, 0xFFFFFFFF - PTE_RW
    directory_entry LINEAR
    update_entry eax, ebp
    expect_eq eax, 0
    print_text "With RW the self-reference is refused, without it is taken.\n"

    mov dword ptr [target], 0                    ; the CPU marks its entry as accessed and dirty
    page_entry target, PAGE_KERNEL
    expect_eq dword ptr [LINEAR + (target >> PAGE_SHIFT) * 4], eax
    print_text "The entry of this page, seen at its place in the linear table, is right.\n"

    remap target, PAGE_READONLY
    page_entry target, PAGE_READONLY
    expect_eq dword ptr [LINEAR + (target >> PAGE_SHIFT) * 4], eax
    print_text "An update by hypercall shows there at once.\n"

    page_faults LINEAR + (target >> PAGE_SHIFT) * 4, 3, mov dword ptr [LINEAR + (target >> PAGE_SHIFT) * 4], 0
    print_text "A write there is a page fault: error "
    print_hex dword ptr [try_error]
    print_text "\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines

page shared_info
page target
