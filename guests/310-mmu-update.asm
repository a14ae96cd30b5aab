; ---
; title = "Page-table updates in one call: mmu_update, machine frames and p2m"
; modes = ["pv"]
;
; [expect]
; console = """
; The machine-to-physical table gives the page number back.
; Two updates, one hypercall: the pages changed places.
; The second of three entries is bad: error -22, entries done 00000001
; A store into the page table itself is a page fault.
; """
;
; [expect.hypercalls]
; mmu_update = 3
; mmuext_op = 2
; update_va_mapping = 1
;
; [expect.exits]
; pf = 1
; ---
; Page tables of a Xen guest are the real ones: the CPU walks what the guest wrote, so entries hold machine frame
; numbers (mfn), not the guest's own page numbers (pfn). The guest translates: pfn -> mfn by the p2m list that
; start_info names, mfn -> pfn by Xen's machine-to-physical table, which everybody may read at 0xFC000000.
;
; What keeps this safe is that the guest may read its tables but never write them: they are mapped read-only, and
; each change is a request {machine address of the entry, new entry} that Xen checks (xen/arch/x86/mm.c,
; do_mmu_update). Many requests travel in one hypercall; the first bad one ends it, and a counter says how far it
; came.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

start:
    try_begin
    memory_begin
    mov dword ptr [left], 0x11111111
    mov dword ptr [right], 0x22222222

    machine_frame left
    expect_eq dword ptr [MACH2PHYS_VIRT_START + 4 * eax], left >> PAGE_SHIFT
    print_text "The machine-to-physical table gives the page number back.\n"

    ; Swap two pages without copying a byte.
    table_entry left
    mov [requests], eax
    page_entry right, PAGE_KERNEL
    mov [requests + 8], eax
    table_entry right
    mov [requests + 16], eax
    page_entry left, PAGE_KERNEL
    mov [requests + 24], eax
    hypercall mmu_update, requests, 2, done, DOMID_SELF
    expect_eq eax, 0
    hypercall mmuext_op, flush, 1, 0, DOMID_SELF ; the CPU may remember the old entries
    expect_eq dword ptr [done], 2
    expect_eq dword ptr [left], 0x22222222
    expect_eq dword ptr [right], 0x11111111
    print_text "Two updates, one hypercall: the pages changed places.\n"

    ; Swap back, with an entry in the middle that asks for frame 0, which is not ours. Xen adds to the counter.
    page_entry left, PAGE_KERNEL
    mov [requests + 8], eax
    mov dword ptr [requests + 24], PAGE_KERNEL
    mov eax, [requests]
    mov [requests + 32], eax
    mov dword ptr [done], 0
    hypercall mmu_update, requests, 3, done, DOMID_SELF
    expect_error EINVAL
    hypercall mmuext_op, flush, 1, 0, DOMID_SELF
    expect_eq dword ptr [left], 0x11111111
    expect_eq dword ptr [right], 0x11111111
    print_text "The second of three entries is bad: error -22, entries done "
    print_hex dword ptr [done]
    print_text "\n"

    ; MACHPHYS_UPDATE writes the other table: which pfn a frame is called by.
    machine_frame right
    shl eax, PAGE_SHIFT
    or eax, MMU_MACHPHYS_UPDATE
    update_entry eax, 0x777
    expect_eq eax, 0
    machine_frame right
    expect_eq dword ptr [MACH2PHYS_VIRT_START + 4 * eax], 0x777

    ; Page tables are the guest's own memory, mapped where it can read them, and only that: error 3, present and write.
    mov ebx, [memory_tables]
    mov eax, [ebx]
    raises VECTOR_PF, PFEC_P | PFEC_W, mov [ebx], eax
    expect_eq dword ptr [try_cr2], ebx
    print_text "A store into the page table itself is a page fault.\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines

.align 8
requests: .space 3 * MMU_UPDATE_SIZE
done: .long 0
flush: .long MMUEXT_TLB_FLUSH_LOCAL, 0, 0

page shared_info
page left
page right
