; ---
; title = "The calls of 3.0.0: event_channel_op 16, physdev_op 19, sched_op 6"
; modes = ["pv"]
;
; [expect]
; console = """
; 16: a port bound, sent to, taken: 00000001
; 19: IOPL 3 is set, 4 is refused
; 6: yield works, poll does not exist, block finds the event
; 6: the value of shutdown is in a register
; """
; reason = "reboot"
;
; [expect.hypercalls]
; event_channel_op_compat = 4
; event_channel_op = 0
; physdev_op_compat = 3
; physdev_op = 0
; sched_op_compat = 4
; sched_op = 0
; ---
; Until 3.0.2 these calls took one pointer to a structure {command, union}, and sched_op a value instead of a
; pointer. The forms with the command in a register got new numbers (32, 33, 29), and the old numbers stayed
; (common/compat.c): a kernel of 3.0.0 still runs.

.include "xen.inc"

.macro old_event command, first=0, second=0, third=0
    mov dword ptr [operation], EVTCHNOP_\command
    mov dword ptr [operation + EVTCHN_OP_UNION], \first
    mov dword ptr [operation + EVTCHN_OP_UNION + 4], \second
    mov dword ptr [operation + EVTCHN_OP_UNION + 8], \third
    hypercall event_channel_op_compat, operation
.endm

.macro old_physdev command, value
    mov dword ptr [operation], \command
    mov dword ptr [operation + PHYSDEV_OP_UNION], \value
    hypercall physdev_op_compat, operation
.endm

start:
    map_shared_info
    set_callbacks upcall, upcall
    old_event bind_ipi
    expect_eq eax, 0
    mov ebp, [operation + EVTCHN_OP_UNION + 4]
    old_event send, ebp
    expect_eq eax, 0
    print_text "16: a port bound, sent to, taken: "
    print_hex ebp
    print_text "\n"
    hypercall event_channel_op_compat, HYPERVISOR_VIRT_START
    expect_error EFAULT

    old_physdev PHYSDEVOP_set_iopl, 3
    expect_eq eax, 0
    old_physdev PHYSDEVOP_set_iopl, 4
    expect_error EINVAL
    old_physdev 99, 0
    expect_error EINVAL
    print_text "19: IOPL 3 is set, 4 is refused\n"

    hypercall sched_op_compat, SCHEDOP_yield, 0
    expect_eq eax, 0
    hypercall sched_op_compat, SCHEDOP_poll, 0
    expect_error ENOSYS
    hypercall sched_op_compat, SCHEDOP_block, 0  ; the IPI is pending: it does not sleep, and the callback is called
    expect_eq eax, 0
    expect_eq dword ptr [calls], 1
    print_text "6: yield works, poll does not exist, block finds the event\n"
    old_event close, ebp
    expect_eq eax, 0
    print_text "6: the value of shutdown is in a register\n"
    shutdown_compat reboot

upcall:
    pushad
    inc dword ptr [calls]
    begin_upcall
    take_port ebp
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
calls: .long 0
operation: .space EVTCHN_OP_SIZE

page shared_info
