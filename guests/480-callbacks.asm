; ---
; title = "Callbacks one at a time: callback_op"
; modes = ["pv"]
;
; [expect]
; console = """
; First callback.
; Second callback.
; """
;
; [expect.hypercalls]
; callback_op = 6
; set_callbacks = 0
; ---
; set_callbacks takes both entry points at once and has no room for more; callback_op (3.0.3) takes one, by type,
; with the selector and the address. Types for other architectures, and taking one back, are -EINVAL here
; (arch/x86/x86_32/traps.c, do_callback_op).

.include "xen.inc"

; register TYPE, ADDRESS
.macro register kind, address
    mov dword ptr [callback], \kind
    mov dword ptr [callback + 8], \address
    hypercall callback_op, CALLBACKOP_register, callback
.endm

; Send an IPI to this vCPU: the event is delivered on the way back from the call.
.macro ring
    mov eax, [ipi + 4]
    mov [port], eax
    hypercall event_channel_op, EVTCHNOP_send, port
    expect_eq eax, 0
.endm

start:
    map_shared_info
    hypercall event_channel_op, EVTCHNOP_bind_ipi, ipi
    expect_eq eax, 0
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0

    register CALLBACKTYPE_event, first
    expect_eq eax, 0
    ring
    register CALLBACKTYPE_event, second
    expect_eq eax, 0
    ring
    expect_eq dword ptr [calls], 2

    register CALLBACKTYPE_syscall, first         ; SYSCALL is for 64-bit guests
    expect_error EINVAL
    hypercall callback_op, CALLBACKOP_unregister, callback
    expect_error EINVAL
    hypercall callback_op, 2, callback
    expect_error ENOSYS
    hypercall callback_op, CALLBACKOP_register, HYPERVISOR_VIRT_START
    expect_error EFAULT
    shutdown poweroff

first:
    pushad
    print_text "First callback.\n"
    jmp taken
second:
    pushad
    print_text "Second callback.\n"
taken:
    inc dword ptr [calls]
    begin_upcall
    take_port dword ptr [ipi + 4]
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
callback: .long 0, FLAT_KERNEL_CS, 0
ipi: .long 0, 0                                  ; vcpu, port (out)
port: .long 0
calls: .long 0

page shared_info
