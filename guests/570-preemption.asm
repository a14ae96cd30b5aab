; ---
; title = "A kernel that spins is interrupted all the same"
; modes = ["pv"]
;
; [expect]
; console = """
; The loop without an exit was left after the timer fired.
; Masked, it runs on, and the event waits.
; """
;
; [expect.exits]
; slice = 2
;
; [expect.hypercalls]
; iret = 2
; ---
; The loop below makes no hypercall and traps nowhere. On a real machine the timer of the processor interrupts it:
; Xen takes the interrupt, finds the guest's timer due, and bounces the event on the way back. The hypervisor here
; has no timer to interrupt the CPU with; while a guest has one armed, instructions are counted instead, each a
; nanosecond, and the run of the CPU ends when the timer is due.

.include "xen.inc"

start:
    map_shared_info
    set_callbacks upcall, upcall
    bind_virq VIRQ_TIMER
    mov [timer_port], eax

    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    set_timer_in 100000
    expect_eq eax, 0
    mov eax, 0
spin:
    inc eax                                      ; registers survive the interruption, flags too
    cmp dword ptr [ticks], 0
    je spin
    cmp eax, 1000
    jb too_soon
    print_text "The loop without an exit was left after the timer fired.\n"

    mov byte ptr [shared_info + VCPU_INFO_MASK], 1
    rdtsc
    mov ebx, eax
    mov ecx, edx
    add ebx, 50000
    adc ecx, 0
    hypercall set_timer_op
wait:
    cmp byte ptr [shared_info + VCPU_INFO_PENDING], 0
    je wait
    expect_eq dword ptr [ticks], 1
    print_text "Masked, it runs on, and the event waits.\n"
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    hypercall xen_version, XENVER_version, 0
    expect_eq dword ptr [ticks], 2
    shutdown poweroff
too_soon:
    fail "the loop ran for less than a thousand turns"

upcall:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    adc dword ptr [ticks], 0
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
timer_port: .long 0
ticks: .long 0

page shared_info
