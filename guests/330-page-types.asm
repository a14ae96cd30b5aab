; ---
; title = "Page types: what a frame is decides what may map it"
; modes = ["pv"]
;
; [expect]
; console = """
; A frame mapped writable cannot be pinned as a page table.
; Mapped read-only, it can: once.
; A pinned page table cannot be mapped writable, nor be a directory.
; In two directory slots at once it shows the same page twice.
; Unpinned, it is a page table as long as a slot refers to it.
; With the last reference gone it is an ordinary page again.
; A table with one bad entry is refused as a whole.
; """
;
; [expect.exits]
; pf = 0
; ---
; Xen remembers of each frame one type at a time and a count of uses in that type (xen/arch/x86/mm.c,
; get_page_type). The type changes only while the count is 0. That one rule is the whole protection: as long as any
; directory uses a frame as a page table, no entry can make it writable; as long as any entry makes it writable, no
; directory can use it.
;
; Becoming a page table means that all 1024 entries are checked. Pinning (mmuext_op) holds the type for a kernel that
; wants the check to be done once, though the table is taken out and put in at every context switch.

.include "xen.inc"
.include "xen_memory.inc"

; extended COMMAND, FRAME: one mmuext_op; FRAME is a register or immediate; EAX = result.
.macro extended command, frame
    mov dword ptr [operation], MMUEXT_\command
    mov dword ptr [operation + MMUEXT_OP_ARG1], \frame
    hypercall mmuext_op, operation, 1, 0, DOMID_SELF
.endm

SLOT = 0x40000000                                ; 4 MiB that the builder left empty
NEXT_SLOT = 0x40400000

start:
    memory_begin
    mov dword ptr [page_shown], 0xFEEDFACE
    page_entry page_shown, PAGE_KERNEL
    mov [table + 4 * 5], eax                     ; a table with one entry, number 5
    machine_frame table
    mov ebp, eax

    extended PIN_L1_TABLE, ebp
    expect_error EINVAL
    print_text "A frame mapped writable cannot be pinned as a page table.\n"

    remap table, PAGE_READONLY
    extended PIN_L1_TABLE, ebp
    expect_eq eax, 0
    extended PIN_L1_TABLE, ebp
    expect_error EINVAL
    print_text "Mapped read-only, it can: once.\n"

    remap table, PAGE_KERNEL
    expect_error EINVAL
    extended PIN_L2_TABLE, ebp
    expect_error EINVAL
    extended NEW_BASEPTR, ebp
    expect_error EINVAL
    print_text "A pinned page table cannot be mapped writable, nor be a directory.\n"

    page_entry table, PAGE_TABLE
    mov edx, eax
    directory_entry SLOT
    update_entry eax, edx
    expect_eq eax, 0
    page_entry table, PAGE_TABLE
    mov edx, eax
    directory_entry NEXT_SLOT
    update_entry eax, edx
    expect_eq eax, 0
    expect_eq dword ptr [SLOT + 5 * PAGE_SIZE], 0xFEEDFACE
    mov dword ptr [NEXT_SLOT + 5 * PAGE_SIZE + 4], 0xABCD
    expect_eq dword ptr [page_shown + 4], 0xABCD
    print_text "In two directory slots at once it shows the same page twice.\n"

    extended UNPIN_TABLE, ebp
    expect_eq eax, 0
    extended UNPIN_TABLE, ebp
    expect_error EINVAL
    directory_entry SLOT
    update_entry eax, 0
    expect_eq eax, 0
    remap table, PAGE_KERNEL
    expect_error EINVAL
    expect_eq dword ptr [NEXT_SLOT + 5 * PAGE_SIZE], 0xFEEDFACE
    print_text "Unpinned, it is a page table as long as a slot refers to it.\n"

    directory_entry NEXT_SLOT
    update_entry eax, 0
    expect_eq eax, 0
    remap table, PAGE_KERNEL
    expect_eq eax, 0
    print_text "With the last reference gone it is an ordinary page again.\n"

    mov dword ptr [table + 4 * 1023], PAGE_KERNEL ; frame 0
    remap table, PAGE_READONLY
    extended PIN_L1_TABLE, ebp
    expect_error EINVAL
    remap table, PAGE_KERNEL                     ; the refused check left nothing behind
    expect_eq eax, 0
    print_text "A table with one bad entry is refused as a whole.\n"
    shutdown poweroff

.include "xen_routines.inc"
memory_routines
.align 4
operation: .long 0, 0, 0

page table
page page_shown
