; ---
; title = "The one-shot timer: set_timer_op, VIRQ_TIMER, and sleeping by sched_op(block)"
; modes = ["pv"]
;
; [expect]
; console = """
; tick 1
; tick 2
; tick 3
; A time that is past fires at once.
; Cancelled by 0, it does not fire.
; """
;
; [expect.hypercalls]
; set_timer_op = 6
; iret = 4
;
; [expect.exits]
; # no instruction is counted here, so no timer interrupts one
; slice = 0
; ---
; A guest has no interval timer; it asks for one event at an absolute system time (common/schedule.c,
; do_set_timer_op), and idles by sched_op(block), which unmasks events and gives the CPU away until one arrives.
; With nothing else to do the hypervisor's clock jumps to that time: what a real machine spends asleep costs nothing
; here.

.include "xen.inc"

MILLISECOND = 1000000

start:
    map_shared_info
    set_callbacks upcall, upcall
    bind_virq VIRQ_TIMER
    expect_eq edx, 0
    mov [timer_port], eax
    call read_clock
    mov [wake], eax
    mov [wake + 4], edx

next_tick:
    add dword ptr [wake], 10 * MILLISECOND       ; absolute times do not drift
    adc dword ptr [wake + 4], 0
    hypercall set_timer_op, [wake], [wake + 4]
    expect_eq eax, 0
    sched block
    expect_eq eax, 0
    call read_clock
    cmp eax, [wake]                              ; never early
    setae al
    movzx eax, al
    expect_eq eax, 1
    print_text "tick "
    print_dec dword ptr [ticks]
    print_text "\n"
    cmp dword ptr [ticks], 3
    jb next_tick

    ; block unmasked events for good: the callback comes on the way back from set_timer_op itself.
    hypercall set_timer_op, 1, 0
    expect_eq dword ptr [ticks], 4
    print_text "A time that is past fires at once.\n"

    call read_clock
    mov ebx, eax
    mov ecx, edx
    add ebx, MILLISECOND / 10
    adc ecx, 0
    hypercall set_timer_op
    hypercall set_timer_op, 0, 0
    mov ebp, 200                                 ; twice that long: an exit takes 1 us of virtual time
wait:
    hypercall xen_version, XENVER_version, 0
    dec ebp
    jnz wait
    expect_eq dword ptr [ticks], 4
    print_text "Cancelled by 0, it does not fire.\n"
    shutdown poweroff

; EDX:EAX = system time. TSC and system time are one number here; 560-time.asm shows how they are connected in
; general.
read_clock:
    rdtsc
    ret

upcall:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    adc dword ptr [ticks], 0                     ; CF says whether it was the timer
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
timer_port: .long 0
ticks: .long 0
wake: .long 0, 0

page shared_info
