; ---
; title = "System call beside hypercall: who is asked, and who is not"
; modes = ["pv"]
;
; [expect]
; console = """
; 100 system calls, 100 hypercalls.
; """
;
; [expect.exits]
; # straight to ring 1 through the guest's own gate: on silicon no hypervisor at all
; gate = 100
; # 100 counted ones, 4 to set up, 2 to print and end
; hypercall = 106
; gp = 0
;
; [expect.hypercalls]
; xen_version = 100
; ---
; Both are a number in EAX, arguments in other registers, and a software interrupt. They differ in who answers:
;
;   system call   int 0x80   ring 3 -> ring 1   the guest kernel; Xen's IDT holds a real trap gate that leads there
;   hypercall     int 0x82   ring 1 -> ring 0   Xen; the gate has DPL 1, so ring 3 cannot use it
;
; So "hypercalls are the system calls of a kernel" is right, and an application's system calls cost what they cost
; without a hypervisor. This one condition: the trap entry for 0x80 must not ask for masked events
; (440-masked-system-call.asm).

.include "xen.inc"
.include "xen_memory.inc"

CALLS = 100

start:
    memory_begin
    kernel_stack kernel_top
    hypercall set_trap_table, traps
    open_to_user user_begin, user_end
    enter_user user, user_top

; The kernel's side: count, and go back. The last one stays.
system_call:
    inc dword ptr [count]
    cmp dword ptr [count], CALLS
    je done
    iretd

done:
    mov ebp, CALLS
each:
    hypercall xen_version, XENVER_version, 0
    expect_eq eax, XEN_VERSION
    dec ebp
    jnz each
    print_text "100 system calls, 100 hypercalls.\n"
    shutdown poweroff

trap_table_begin traps
trap 0x80, 3, system_call
trap_table_end
count: .long 0

.include "xen_routines.inc"
memory_routines
stack kernel_top

.align PAGE_SIZE
user_begin:
user:
    mov eax, 20                                  ; getpid, say
    int 0x80
    jmp user
.align PAGE_SIZE
.space PAGE_SIZE
user_top:
user_end:
