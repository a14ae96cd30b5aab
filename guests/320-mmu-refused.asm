; ---
; title = "What no page table of a guest may say"
; modes = ["pv"]
;
; [expect]
; console = """
; refused: a frame of the hypervisor
; refused: a frame that no RAM has
; refused: a page table, writable
; refused: the page directory, writable
; refused: a GDT page, writable
; refused: a global page
; refused: a superpage
; refused: a directory entry of the hypervisor's
; refused: a page table that is mapped writable
; refused: an entry of 64 bits
; refused: an unknown command
; refused: another domain
; refused: an address of the hypervisor's
; A page table and a GDT page, read-only: allowed.
; """
;
; [expect.exits]
; pf = 0
; gp = 0
; nested = 0
; ---
; A ring-1 kernel is supervisor for the paging hardware, and Xen lives in the same address space: only what the
; entries say keeps them apart. So Xen refuses, with -EINVAL (xen/arch/x86/mm.c, get_page_from_l1e and
; mod_l2_entry):
;   - frames that the domain does not own;
;   - writable mappings of frames that the CPU reads as page tables or descriptors: page types with counts see to that;
;   - PS in an L2 entry (4 MiB at once, unchecked) and PAT in an L1 entry, which is the same bit; G, because Xen's
;     switches of address space would not flush it (asm-x86/x86_32/page.h, L1_DISALLOW_MASK);
;   - the top 16 directory entries, where Xen is.

.include "xen.inc"
.include "xen_memory.inc"

; refused "what": EAX is -EINVAL; say so.
.macro refused what
    expect_error EINVAL
    print_text "refused: "
    print_text \what
    print_text "\n"
.endm

start:
    memory_begin
    remap gdt, PAGE_READONLY
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_eq eax, 0

    map target, 1 << PAGE_SHIFT | PAGE_READONLY
    refused "a frame of the hypervisor"
    map target, 0xF0000000 | PAGE_READONLY
    refused "a frame that no RAM has"
    mov edx, [memory_tables]
    add edx, PAGE_SIZE
    page_entry edx, PAGE_KERNEL
    map target, eax
    refused "a page table, writable"
    page_entry [memory_tables], PAGE_KERNEL
    map target, eax
    refused "the page directory, writable"
    remap gdt, PAGE_KERNEL
    refused "a GDT page, writable"
    remap target, PAGE_KERNEL | PTE_G
    refused "a global page"

    directory_entry 0x40000000
    update_entry eax, 0x400000 | PAGE_TABLE | PTE_PS
    refused "a superpage"
    directory_entry HYPERVISOR_VIRT_START
    update_entry eax, 0
    refused "a directory entry of the hypervisor's"
    page_entry target, PAGE_TABLE
    mov edx, eax
    directory_entry 0x40000000
    update_entry eax, edx
    refused "a page table that is mapped writable"

    mov dword ptr [memory_request + 12], 1       ; the upper half of the entry
    table_entry target
    update_entry eax, 0
    refused "an entry of 64 bits"
    mov dword ptr [memory_request + 12], 0
    table_entry target
    or eax, 2
    update_entry eax, 0
    refused "an unknown command"
    hypercall mmu_update, memory_request, 1, 0, 0
    refused "another domain"
    map HYPERVISOR_VIRT_START, 0
    refused "an address of the hypervisor's"

    mov edx, [memory_tables]
    page_entry edx, PAGE_READONLY
    map target, eax
    expect_eq eax, 0
    remap gdt, PAGE_READONLY
    expect_eq eax, 0
    print_text "A page table and a GDT page, read-only: allowed.\n"
    shutdown poweroff

.include "xen_routines.inc"
memory_routines
frames: .long 0

page gdt
page target
