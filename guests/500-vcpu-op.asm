; ---
; title = "vcpu_op: what a single vCPU can ask"
; modes = ["pv"]
;
; [expect]
; console = """
; vCPU 0 is up, vCPU 1 is not there, vCPU 32 cannot be.
; It runs, and has waited 5 ms of its time.
; """
;
; [expect.hypercalls]
; vcpu_op = 7
; ---
; Most of vcpu_op brings up further processors; this machine has one. Of use to it is the runstate record (3.0.2):
; the time that the vCPU spent running, runnable, blocked and offline, in ns. A kernel tells from it how much time
; was stolen.

.include "xen.inc"

start:
    map_shared_info
    set_callbacks timer, timer
    hypercall vcpu_op, VCPUOP_is_up, 0, 0
    expect_eq eax, 1
    hypercall vcpu_op, VCPUOP_is_up, 1, 0
    expect_error ENOENT
    hypercall vcpu_op, VCPUOP_is_up, MAX_VIRT_CPUS, 0
    expect_error EINVAL
    hypercall vcpu_op, VCPUOP_up, 0, 0
    expect_eq eax, 0
    hypercall vcpu_op, VCPUOP_initialise, 0, HYPERVISOR_VIRT_START
    expect_error EFAULT
    print_text "vCPU 0 is up, vCPU 1 is not there, vCPU 32 cannot be.\n"

    ; Wait for 5 ms and something.
    bind_virq VIRQ_TIMER
    mov [timer_port], eax
    hypercall vcpu_op, VCPUOP_get_runstate_info, 0, before
    expect_eq eax, 0
    expect_eq dword ptr [before + RUNSTATE_STATE], RUNSTATE_running
    rdtsc                                        ; TSC and system time run alike here
    add eax, 5500000
    adc edx, 0
    mov ebx, eax
    mov ecx, edx
    hypercall set_timer_op
    sched block
    hypercall vcpu_op, VCPUOP_get_runstate_info, 0, after
    expect_eq eax, 0
    mov eax, [after + RUNSTATE_TIMES + 8 * RUNSTATE_blocked]
    sub eax, [before + RUNSTATE_TIMES + 8 * RUNSTATE_blocked]
    mov edx, 0
    mov ecx, 1000000
    div ecx
    expect_eq eax, 5
    print_text "It runs, and has waited 5 ms of its time.\n"
    shutdown poweroff

timer:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    popad
    iret_hypercall

.include "xen_routines.inc"
.align 4
timer_port: .long 0
before: .space RUNSTATE_INFO_SIZE
after: .space RUNSTATE_INFO_SIZE

page shared_info
