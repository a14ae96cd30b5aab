; ---
; title = "Giving memory back and taking it again: memory_op, the balloon"
; modes = ["pv"]
;
; [run]
; memory = "2M"
;
; [expect]
; console = """
; Pages: 00000200 now, 00000200 at most.
; A frame that is still mapped is not taken.
; Unmapped, it goes: 000001ff left, and nothing maps it any more.
; A frame comes back, empty, under the page number that was asked for.
; More than the limit is not given.
; """
;
; [expect.exits]
; nested = 0
;
; [expect.hypercalls]
; memory_op = 12
; ---
; A balloon driver returns frames to Xen and gets others later (drivers/xen/balloon). decrease_reservation takes a
; list of machine frames; populate_physmap a list of page numbers, and puts the frames that they got in their place
; (since 3.0.2). The result is how many were done, not an error: a list is worked through until something does not
; go.

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    mov ebp, [esi + START_INFO_NR_PAGES]
    hypercall memory_op, XENMEM_current_reservation, self
    expect_eq eax, ebp
    hypercall memory_op, XENMEM_maximum_reservation, self
    expect_eq eax, ebp
    print_text "Pages: "
    print_hex ebp
    print_text " now, "
    print_hex eax
    print_text " at most.\n"
    hypercall memory_op, XENMEM_maximum_ram_page, 0
    cmp eax, ebp                                 ; the machine has more frames than the domain
    seta al
    movzx eax, al
    expect_eq eax, 1

    machine_frame balloon
    mov [frame], eax
    hypercall memory_op, XENMEM_decrease_reservation, reservation
    expect_eq eax, 0
    print_text "A frame that is still mapped is not taken.\n"

    mov dword ptr [balloon], 0xDEAD
    map balloon, 0
    hypercall memory_op, XENMEM_decrease_reservation, reservation
    expect_eq eax, 1
    hypercall memory_op, XENMEM_current_reservation, self
    print_text "Unmapped, it goes: "
    print_hex eax
    print_text " left, and nothing maps it any more.\n"
    remap balloon, PAGE_KERNEL
    expect_error EINVAL
    hypercall memory_op, XENMEM_decrease_reservation, reservation
    expect_eq eax, 0                             ; it is not ours to give a second time

    mov dword ptr [frame], balloon >> PAGE_SHIFT
    hypercall memory_op, XENMEM_populate_physmap, reservation
    expect_eq eax, 1
    mov eax, [frame]                             ; now the machine frame: the kernel keeps its p2m list itself
    mov ecx, [memory_p2m]
    mov [ecx + (balloon >> PAGE_SHIFT) * 4], eax
    expect_eq dword ptr [MACH2PHYS_VIRT_START + 4 * eax], balloon >> PAGE_SHIFT
    remap balloon, PAGE_KERNEL
    expect_eq eax, 0
    expect_eq dword ptr [balloon], 0
    print_text "A frame comes back, empty, under the page number that was asked for.\n"

    mov dword ptr [frame], balloon >> PAGE_SHIFT
    hypercall memory_op, XENMEM_populate_physmap, reservation
    expect_eq eax, 0
    print_text "More than the limit is not given.\n"

    ; The command's upper bits say where a list that was interrupted goes on; beyond its end is an error.
    hypercall memory_op, XENMEM_populate_physmap | 2 << MEMORY_OP_START_SHIFT, reservation
    expect_error EINVAL
    hypercall memory_op, XENMEM_populate_physmap, HYPERVISOR_VIRT_START
    expect_error EFAULT
    hypercall memory_op, 14, reservation              ; no such command
    expect_error ENOSYS
    shutdown poweroff

.include "xen_routines.inc"
memory_routines

.align 4
; extent_start, nr_extents, extent_order, address_bits (0: any), domid
reservation: .long frame, 1, 0, 0, DOMID_SELF
frame: .long 0
self: .long DOMID_SELF

page balloon
