; ---
; title = "The end: blocked, and nothing to wake it"
; modes = ["pv"]
;
; [expect]
; verdict = "error"
; reason = "nothing can wake it"
; console = "good night\n"
; hypercalls = { sched_op = 1 }
; ---
; sched_op(block) returns when an event is pending. Here no timer is set, no channel is bound, and there is no other
; domain. On a real Xen this domain would sleep for ever, like a machine halted with interrupts off; where time is
; virtual it can be seen at once that nothing will happen, and the run ends with the verdict "error": the test is
; wrong, not what it tests.

.include "xen.inc"

start:
    print_text "good night\n"
    sched block
    fail "woken by nobody"
