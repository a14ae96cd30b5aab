; ---
; title = "Giving up the CPU: yield, block with an event already there, poll"
; modes = ["pv"]
;
; [expect]
; console = """
; yield comes straight back.
; block with an event pending does not wait: the callback comes first.
; poll returns for a port that is pending, without a callback.
; poll ends by its time, though nothing happened.
; poll ends by an event, before its time.
; poll refuses unmasked events, too many ports, ports that cannot be.
; """
;
; [expect.hypercalls]
; iret = 1
; ---
; block and HLT differ in one thing that matters: "unmask and sleep" is one step, as STI; HLT is on bare hardware.
; If an event waits already, block does not sleep (common/schedule.c, do_block). poll, since 3.0.2, waits for one of
; a list of ports or for a time without any callback: events must stay masked meanwhile. A kernel uses it where it
; cannot take interrupts.

.include "xen.inc"

.macro send_ipi
    hypercall event_channel_op, EVTCHNOP_send, port
    expect_eq eax, 0
.endm

.macro poll
    hypercall sched_op, SCHEDOP_poll, request
.endm

start:
    map_shared_info
    set_callbacks upcall, upcall
    hypercall event_channel_op, EVTCHNOP_bind_ipi, ipi
    mov eax, [ipi + 4]
    mov [port], eax
    bind_virq VIRQ_TIMER
    mov [timer_port], eax

    sched yield
    expect_eq eax, 0
    print_text "yield comes straight back.\n"

    send_ipi                                     ; masked: it only waits
    expect_eq dword ptr [calls], 0
    sched block
    expect_eq eax, 0
    expect_eq dword ptr [calls], 1
    print_text "block with an event pending does not wait: the callback comes first.\n"
    mov byte ptr [shared_info + VCPU_INFO_MASK], 1

    send_ipi
    poll
    expect_eq eax, 0
    take_port dword ptr [port]
    expect_eq dword ptr [calls], 1
    print_text "poll returns for a port that is pending, without a callback.\n"

    call in_a_millisecond
    mov [request + 8], eax
    mov [request + 12], edx
    poll
    expect_eq eax, 0
    rdtsc
    sub eax, [request + 8]                       ; how late: less than a thousand exits
    cmp eax, 1000000
    setb al
    movzx eax, al
    expect_eq eax, 1
    print_text "poll ends by its time, though nothing happened.\n"

    ; Wait for the timer's port, with an hour as the time to give up.
    mov eax, [timer_port]
    mov [port], eax
    call in_a_millisecond
    mov [wake], eax
    mov ebx, eax
    mov ecx, edx
    hypercall set_timer_op
    mov dword ptr [request + 8], 0
    mov dword ptr [request + 12], 838            ; 838 * 2^32 ns
    poll
    expect_eq eax, 0
    rdtsc
    expect_eq edx, 0
    sub eax, [wake]
    cmp eax, 1000000
    setb al
    movzx eax, al
    expect_eq eax, 1
    take_port dword ptr [timer_port]
    expect_eq dword ptr [calls], 1
    print_text "poll ends by an event, before its time.\n"

    mov byte ptr [shared_info + VCPU_INFO_PENDING], 0
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    poll
    expect_error EINVAL
    mov byte ptr [shared_info + VCPU_INFO_MASK], 1
    mov dword ptr [port], NR_EVENT_CHANNELS
    poll
    expect_error EINVAL
    mov dword ptr [request + 4], SCHED_POLL_MAX_PORTS + 1
    poll
    expect_error EINVAL
    hypercall sched_op, SCHEDOP_poll, HYPERVISOR_VIRT_START
    expect_error EFAULT
    print_text "poll refuses unmasked events, too many ports, ports that cannot be.\n"
    shutdown poweroff

; EDX:EAX = a millisecond from now.
in_a_millisecond:
    rdtsc
    add eax, 1000000
    adc edx, 0
    ret

upcall:
    pushad
    inc dword ptr [calls]
    begin_upcall
    take_port dword ptr [port]
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
ipi: .long 0, 0
port: .long 0
timer_port: .long 0
wake: .long 0
calls: .long 0
request: .long port, 1, 0, 0                     ; ports, nr_ports, timeout (0: none)

page shared_info
