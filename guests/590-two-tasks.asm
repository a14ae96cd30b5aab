; ---
; title = "Two tasks in ring 3 share CPU and FPU: preemption by timer, lazy FPU switching"
; modes = ["pv"]
;
; [expect]
; console = """
; Task A counted up to 60000 on the FPU.
; Task B counted from 1000000 down to 985000 on the FPU.
; Neither gave the CPU away: the timer took it, more than 10 times.
; The FPU's contents moved only when another task touched it.
; """
;
; [expect.exits]
; # the two system calls that end the tasks
; gp = 2
; gate = 0
; pf = 0
; ---
; Everything so far, in one small kernel. Two applications loop without ever calling it. A timer event preempts
; whichever runs; the kernel saves its registers, takes the other's, and tells Xen two things: where the kernel's
; stack for this task is, and that the FPU's contents belong to someone else now. Linux does these two in one
; multicall (arch/i386/kernel/ process.c of its Xen port, __switch_to), and so does this kernel.
;
; Saving and loading 512 bytes of FPU at every switch would be a waste: the next task may not need it.
; fpu_taskswitch(1) sets TS, so its first FPU instruction raises #NM. Xen takes that first, clears TS, and bounces
; it because the guest asked for TS (arch/x86/traps.c, math_state_restore). Only now the kernel moves the contents:
; FXSAVE for the owner, FXRSTOR for the task that runs. If that is the owner itself, there is nothing to move.

.include "xen.inc"
.include "xen_memory.inc"

QUANTUM = 20000                                  ; ns of virtual time
TURNS = 60000
FEW_TURNS = 15000
ENOUGH_SWITCHES = 10

; A task: its kernel stack pointer while it does not run, the top of that stack, whether it has ended, its FPU.
TASK_ESP = 0
TASK_TOP = 4
TASK_ENDED = 8
TASK_FPU = 16
TASK_SIZE = 16 + 512

; new_task TASK, EIP, ESP: leave on its kernel stack what `switched` takes off it: eight registers, and a frame for
; iret.
.macro new_task task, eip, esp
    mov ebp, esp
    mov esp, [\task + TASK_TOP]
    user_frame \eip, \esp
    sub esp, 32
    mov [\task + TASK_ESP], esp
    mov esp, ebp
    fxsave [\task + TASK_FPU]                    ; an FPU as FNINIT leaves it
.endm

start:
    memory_begin
    map_shared_info
    hypercall set_trap_table, traps
    set_callbacks timer, timer
    bind_virq VIRQ_TIMER
    mov [timer_port], eax
    open_to_user user_begin, user_end

    fninit                                       ; Xen gives the FPU to this vCPU, and the kernel sees no #NM
    new_task task_a, user_a, stack_a
    new_task task_b, user_b, stack_b
    call arm_timer
    load_user_segments                           ; the kernel lives with ring-3 DS and ES too
    mov eax, offset task_a
    jmp switch_to

; EAX = the task to go on with. Does not return: the kernel stack that it leaves was put away, or is not needed any
; more.
switch_to:
    mov [current], eax
    mov ecx, [eax + TASK_TOP]
    mov [switch_calls + MULTICALL_ENTRY_SIZE + MULTICALL_ARGS + 4], ecx
    mov esp, [eax + TASK_ESP]
    hypercall multicall, switch_calls, 2
    expect_eq eax, 0
    inc dword ptr [switches]
switched:
    popad
    iret_hypercall                               ; unmasks events, for IF is set in the frame

; A timer event in ring 3: on the kernel stack of the current task are EIP, CS, EFLAGS, ESP, SS.
timer:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    call arm_timer
    mov ebx, [current]
    mov [ebx + TASK_ESP], esp
    call other_task
    cmp dword ptr [eax + TASK_ENDED], 0
    je switch_to
    jmp switched                                 ; alone: go on

; int 0x80: the task has ended.
system_call:
    mov ebx, [current]
    mov dword ptr [ebx + TASK_ENDED], 1
    call other_task
    cmp dword ptr [eax + TASK_ENDED], 0
    je switch_to
    jmp both_ended

; #NM: the current task touches the FPU, and TS was set. Xen has cleared it.
device_not_available:
    pushad
    inc dword ptr [faults]
    mov eax, [current]
    mov ebx, [fpu_owner]
    cmp eax, ebx
    je own_already
    test ebx, ebx
    jz nobody
    fxsave [ebx + TASK_FPU]
nobody:
    fxrstor [eax + TASK_FPU]
    mov [fpu_owner], eax
    inc dword ptr [moves]
own_already:
    popad
    iret_hypercall

; EAX = the task that is not the current one.
other_task:
    mov eax, offset task_a
    cmp [current], eax
    jne found
    mov eax, offset task_b
found:
    ret

arm_timer:
    rdtsc
    mov ebx, eax
    mov ecx, edx
    add ebx, QUANTUM
    adc ecx, 0
    hypercall set_timer_op
    ret

both_ended:
    print_text "Task A counted up to "
    print_dec dword ptr [result_a]
    print_text " on the FPU.\nTask B counted from 1000000 down to "
    print_dec dword ptr [result_b]
    print_text " on the FPU.\n"
    cmp dword ptr [switches], ENOUGH_SWITCHES
    jbe wrong
    print_text "Neither gave the CPU away: the timer took it, more than 10 times.\n"
    ; Every move follows a #NM, but once task B has done with the FPU, A finds its own contents there.
    mov eax, [moves]
    cmp eax, [faults]
    jae wrong
    print_text "The FPU's contents moved only when another task touched it.\n"
    shutdown poweroff
wrong:
    print_dec dword ptr [switches]
    print_text " switches, moves of the FPU: "
    print_dec dword ptr [moves]
    fail ""

trap_table_begin traps
trap VECTOR_NM, TRAP_INFO_IF, device_not_available
trap 0x80, 3 | TRAP_INFO_IF, system_call
trap_table_end

.include "xen_routines.inc"
memory_routines

.align 4
switch_calls:
    multicall_entry fpu_taskswitch, 1
    multicall_entry stack_switch, FLAT_KERNEL_SS, 0
timer_port: .long 0
current: .long 0
fpu_owner: .long 0
switches: .long 0
faults: .long 0
moves: .long 0

stack top_a
stack top_b
.align 16
task_a: .long 0, top_a, 0, 0
    .space 512
task_b: .long 0, top_b, 0, 0
    .space 512

page shared_info

; --- Ring 3 -----------------------------------------------------------------------------------------------------------

.align PAGE_SIZE
user_begin:
; Task A: the count stays in ST(0) all the time.
user_a:
    fldz
    fld1
    mov ecx, TURNS
count_up:
    fadd st(1), st(0)
    dec ecx
    jnz count_up
    fstp st(0)
    fistp dword ptr [result_a]
    int 0x80

; Task B: a little of the same downwards, then without the FPU.
user_b:
    fild dword ptr [million]
    fld1
    mov ecx, FEW_TURNS
count_down:
    fsub st(1), st(0)
    dec ecx
    jnz count_down
    fstp st(0)
    fistp dword ptr [result_b]
    mov ecx, TURNS
only_spin:
    dec ecx
    jnz only_spin
    int 0x80

.align 4
million: .long 1000000
result_a: .long 0
result_b: .long 0
.align PAGE_SIZE
.space 1024
stack_a:
.space 1024
stack_b:
.align PAGE_SIZE
user_end:
