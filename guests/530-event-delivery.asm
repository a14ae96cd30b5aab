; ---
; title = "From a send to the callback: pending, masked, selected, delivered"
; modes = ["pv"]
;
; [expect]
; console = """
; Events masked for the vCPU: pending, selector and flag are set, no call.
; Unmasked by a store, delivered at the next way back from Xen: callback
; Port masked: pending, but no selector, no flag, no call.
; EVTCHNOP_unmask delivers what waited: callback
; A loop: what port 2 sends, port 1 gets: callback
; Sent twice before it is taken: one callback
; """
;
; [expect.hypercalls]
; iret = 4
;
; [expect.exits]
; gp = 0
; ---
; Xen's side (common/event_channel.c, evtchn_set_pending), each step only if the one before was news:
;   1. set the port's bit in evtchn_pending
;   2. stop if its bit in evtchn_mask is set
;   3. set bit port / 32 in the vCPU's evtchn_pending_sel
;   4. set evtchn_upcall_pending
; and on each way back to the guest: if evtchn_upcall_pending is set and evtchn_upcall_mask is not, call the event
; callback with the mask set. Nothing is cleared by Xen: that is the guest's side, in the order of `upcall` below.

.include "xen.inc"

.macro send number
    mov dword ptr [port], \number
    hypercall event_channel_op, EVTCHNOP_send, port
    expect_eq eax, 0
.endm

; expect_state PENDING BITS, SELECTOR, FLAG
.macro expect_state bits, selector, flag
    expect_eq dword ptr [shared_info + SHARED_INFO_EVTCHN_PENDING], \bits
    expect_eq dword ptr [shared_info + VCPU_INFO_PENDING_SEL], \selector
    movzx eax, byte ptr [shared_info + VCPU_INFO_PENDING]
    expect_eq eax, \flag
.endm

start:
    map_shared_info
    set_callbacks upcall, upcall
    hypercall event_channel_op, EVTCHNOP_alloc_unbound, unbound
    expect_eq dword ptr [unbound + 4], 1
    hypercall event_channel_op, EVTCHNOP_bind_interdomain, loop
    expect_eq dword ptr [loop + 8], 2
    hypercall event_channel_op, EVTCHNOP_bind_ipi, ipi
    expect_eq dword ptr [ipi + 4], 3

    ; bind_interdomain sets its new port pending once. Start from nothing.
    expect_state 1 << 2, 1, 1
    mov dword ptr [shared_info + SHARED_INFO_EVTCHN_PENDING], 0
    begin_upcall

    send 3
    expect_state 1 << 3, 1, 1
    expect_eq dword ptr [calls], 0
    print_text "Events masked for the vCPU: pending, selector and flag are set, no call.\n"
    print_text "Unmasked by a store, delivered at the next way back from Xen: "
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    expect_eq dword ptr [calls], 0               ; a store is not a way back
    hypercall xen_version, XENVER_version, 0
    expect_eq dword ptr [calls], 1
    expect_eq dword ptr [taken], 1 << 3
    expect_state 0, 0, 0

    mask_port 3
    send 3
    expect_state 1 << 3, 0, 0
    expect_eq dword ptr [calls], 1
    print_text "Port masked: pending, but no selector, no flag, no call.\n"
    print_text "EVTCHNOP_unmask delivers what waited: "
    hypercall event_channel_op, EVTCHNOP_unmask, port
    expect_eq eax, 0
    expect_eq dword ptr [calls], 2
    expect_state 0, 0, 0

    print_text "A loop: what port 2 sends, port 1 gets: "
    send 2
    expect_eq dword ptr [calls], 3
    expect_eq dword ptr [taken], 1 << 1

    print_text "Sent twice before it is taken: one "
    mov byte ptr [shared_info + VCPU_INFO_MASK], 1
    send 3
    send 3
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    hypercall xen_version, XENVER_version, 0
    expect_eq dword ptr [calls], 4
    shutdown poweroff

; The guest's side: flag first, then the selector by exchange, then the ports of each word that it names. In this
; order an event that arrives in between sets the flag again and is not lost.
upcall:
    pushad
    inc dword ptr [calls]
    print_text "callback\n"
    begin_upcall
    expect_eq eax, 1                             ; word 0 only
    mov eax, [shared_info + SHARED_INFO_EVTCHN_MASK]
    not eax
    and eax, [shared_info + SHARED_INFO_EVTCHN_PENDING]
    mov [taken], eax
    not eax
    lock and [shared_info + SHARED_INFO_EVTCHN_PENDING], eax
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
unbound: .word DOMID_SELF, DOMID_SELF
    .long 0
loop: .long DOMID_SELF, 1, 0
ipi: .long 0, 0
port: .long 0
calls: .long 0
taken: .long 0

page shared_info
