; ---
; title = "What time is it: TSC, and the record that turns it into system time"
; modes = ["pv"]
;
; [expect]
; console = """
; The version is even: nobody is writing the record.
; RDTSC by the formula, and a timer set by it: they agree.
; Time went by while nothing ran: about 250 ms.
; The day the system was started, in seconds: 1133740800
; """
;
; [expect.exits]
; rdtsc = 4
; slice = 0
; ---
; Xen does not trap RDTSC for a guest; it publishes how TSC ticks become nanoseconds (public/xen.h, vcpu_time_info):
;
;   delta = RDTSC - tsc_timestamp, shifted left by tsc_shift (right if negative)
;   now   = system_time + (delta * tsc_to_system_mul >> 32)
;
; A version that is odd, or has changed between the first and the last read, says that Xen was just writing: read
; again. The wall clock is a second record: the time of day when system time was 0.
;
; In this laboratory time is virtual: it moves by a price an exit and jumps while the guest sleeps, so RDTSC is an
; exit.

.include "xen.inc"

TIME = shared_info + VCPU_INFO_TIME

start:
    map_shared_info
    set_callbacks upcall, upcall
    bind_virq VIRQ_TIMER
    mov [timer_port], eax
    mov eax, [TIME + VCPU_TIME_VERSION]
    and eax, 1
    expect_eq eax, 0
    print_text "The version is even: nobody is writing the record.\n"

    call system_time
    add eax, 250000000
    adc edx, 0
    mov [wake], eax
    mov [wake + 4], edx
    hypercall set_timer_op, [wake], [wake + 4]
    rdtsc
    mov [asleep], eax
    sched block
    call system_time
    sub eax, [wake]                              ; how late
    sbb edx, [wake + 4]
    expect_eq edx, 0                             ; not early
    cmp eax, 100000
    setb al
    movzx eax, al
    expect_eq eax, 1
    print_text "RDTSC by the formula, and a timer set by it: they agree.\n"

    rdtsc
    sub eax, [asleep]
    mov edx, 0
    mov ecx, 1000000
    div ecx
    cmp eax, 249
    jb wrong
    cmp eax, 251
    ja wrong
    print_text "Time went by while nothing ran: about 250 ms.\n"
    print_text "The day the system was started, in seconds: "
    print_dec dword ptr [shared_info + SHARED_INFO_WC_SEC]
    print_text "\n"
    shutdown poweroff
wrong:
    fail "the sleep took another time"

; EDX:EAX = now in ns, by the formula. The shift is of a 64-bit number, the product of 96 bits is shifted right by 32.
system_time:
    mov esi, [TIME + VCPU_TIME_VERSION]
    rdtsc
    sub eax, [TIME + VCPU_TIME_TSC_TIMESTAMP]
    sbb edx, [TIME + VCPU_TIME_TSC_TIMESTAMP + 4]
    mov cl, [TIME + VCPU_TIME_TSC_SHIFT]
    test cl, cl
    js to_the_right
    shld edx, eax, cl
    shl eax, cl
    jmp shifted
to_the_right:
    neg cl
    shrd eax, edx, cl
    shr edx, cl
shifted:
    mov ebx, edx
    mul dword ptr [TIME + VCPU_TIME_TSC_TO_SYSTEM_MUL]
    mov edi, edx                                 ; low half of the delta: only the upper 32 bits count
    mov eax, ebx
    mul dword ptr [TIME + VCPU_TIME_TSC_TO_SYSTEM_MUL]
    add eax, edi
    adc edx, 0
    add eax, [TIME + VCPU_TIME_SYSTEM_TIME]
    adc edx, [TIME + VCPU_TIME_SYSTEM_TIME + 4]
    cmp esi, [TIME + VCPU_TIME_VERSION]
    jne system_time
    ret

upcall:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
timer_port: .long 0
asleep: .long 0
wake: .long 0, 0

page shared_info
