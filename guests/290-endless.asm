; ---
; title = "The end: a loop, and a limit to it"
; modes = ["pv"]
;
; [run]
; max_insns = 10000
;
; [expect]
; verdict = "timeout"
; reason = "limit of 10000 instructions"
; console = "round and round\n"
; exits = { hypercall = 1 }
; ---
; Nothing here faults, so nothing comes back to the hypervisor: a guest runs on the bare CPU until something happens.
; A real Xen has its own timer interrupt and lets other domains run in between. Here a limit in instructions ends it,
; always at the same one; without a limit a timeout by the wall clock would.

.include "xen.inc"

start:
    print_text "round and round\n"
1:  inc eax
    jmp 1b
