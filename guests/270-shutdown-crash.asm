; ---
; title = "The end: the kernel gives up by itself"
; modes = ["pv"]
;
; [expect]
; verdict = "failure"
; reason = "shutdown: crash"
; console = "one and one is not three: a panic\n"
; hypercalls = { sched_op = 0, sched_op_compat = 1 }
; ---
; A kernel that panics says so: sched_op(shutdown) with reason 3, crash. Poweroff, reboot and suspend are the other
; reasons, and count as success. This is how a test guest fails: what it wanted to see is not so (`expect_eq` and
; `fail` do it). The call is made in the form of 3.0.0, number 6, with the reason as a value: it needs no stack and no
; memory, which suits a kernel in trouble.

.include "xen.inc"

start:
    mov eax, 1
    add eax, eax
    cmp eax, 3
    je fine
    print_text "one and one is not three: a panic\n"
    shutdown_compat crash
fine:
    shutdown poweroff
