; ---
; title = "Being idle: HLT is bounced, sched_op(block) waits"
; modes = ["pv"]
;
; [expect]
; console = """
; HLT: #GP(0), and nobody slept
; block: woken by the timer, 5 ms later
; """
; exits = { gp = 1, rdtsc = 2 }
; hypercalls = { set_timer_op = 1, iret = 1 }
; ---
; An idle kernel on bare hardware executes HLT. In ring 1 that is #GP(0), and HLT is not on Xen's list of emulated
; instructions: not in 3.0, not today (arch/x86/traps.c). The fault is bounced: Xen builds on the kernel's stack the
; frame that hardware would have built, and goes on at the handler that set_trap_table named for vector 13. So a
; kernel that was not ported would spin through its fault handler instead of sleeping.
;
; The ported kernel of Xen 3.0 waits by sched_op(block) (linux-2.6-xen-sparse, xen_idle): events are unmasked and the
; virtual CPU sleeps until one is pending, in one step, so that none is missed between the two.

.include "xen.inc"

start:
    map_shared_info
    hypercall set_trap_table, traps
    set_callbacks on_event, on_event

halting:
    hlt
halted:
    expect_eq dword ptr [faults], 1
    print_text "HLT: #GP(0), and nobody slept\n"

    bind_virq VIRQ_TIMER
    expect_eq edx, 0
    mov [timer_port], eax
    call system_time
    mov ebp, eax
    mov edi, 5000000                ; nanoseconds
    add eax, edi
    adc edx, 0
    hypercall set_timer_op, eax, edx
    expect_eq eax, 0
    sched block
    expect_eq eax, 0
    expect_eq dword ptr [ticks], 1
    call system_time
    sub eax, ebp
    cmp eax, edi
    jb early
    print_text "block: woken by the timer, 5 ms later\n"
    shutdown poweroff
early:
    fail "woken before its time"

; EDX:EAX = ns since boot. Xen writes a pair of time and TSC now and then; the kernel adds what the TSC has gone on
; since, scaled by a shift and a 32-bit fraction (xen/include/public/xen.h, struct vcpu_time_info). Up to 4 s, for 32
; bits.
system_time:
    rdtsc
    sub eax, [shared_info + VCPU_INFO_TIME + VCPU_TIME_TSC_TIMESTAMP]
    mov cl, [shared_info + VCPU_INFO_TIME + VCPU_TIME_TSC_SHIFT]
    shl eax, cl
    mul dword ptr [shared_info + VCPU_INFO_TIME + VCPU_TIME_TSC_TO_SYSTEM_MUL]
    mov eax, edx
    mov edx, [shared_info + VCPU_INFO_TIME + VCPU_TIME_SYSTEM_TIME + 4]
    add eax, [shared_info + VCPU_INFO_TIME + VCPU_TIME_SYSTEM_TIME]
    adc edx, 0
    ret

; Stack: error code, EIP, CS (with the old event mask in bits 23:16), EFLAGS. A fault's EIP is the instruction itself.
on_gp:
    cmp dword ptr [esp], 0
    jne strange
    cmp dword ptr [esp + 4], halting
    jne strange
    inc dword ptr [faults]
    mov dword ptr [esp + 4], halted
    add esp, 4
    iretd
strange:
    fail "not the #GP(0) of HLT"

; Xen masked further events on the way in. The iret hypercall leaves with those of the interrupted code unmasked again.
on_event:
    pushad
    begin_upcall
    take_port [timer_port]
    jnc 1f
    inc dword ptr [ticks]
1:  popad
    iret_hypercall

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
faults: .long 0
ticks: .long 0
timer_port: .long 0
page shared_info
