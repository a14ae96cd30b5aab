; ---
; title = "Trap and emulate: one CLTS"
; modes = ["pv"]
;
; [expect]
; console = "CLTS in ring 1, and the kernel goes on.\n"
; exits = { gp = 1, hypercall = 2 }
; ---
; CLTS (0F 06) clears CR0.TS and is privileged: the CPU executes it in ring 0 only. This kernel runs in ring 1, so the
; CPU raises #GP(0) with EIP at the instruction (SDM 2, CLTS). Xen's do_general_protection sees error code 0, reads the
; bytes at EIP, finds CLTS on its short list (arch/x86/traps.c, emulate_privileged_op), does what the guest meant by
; do_fpu_taskswitch(0), and moves EIP behind the two bytes. The kernel never learns that anything happened.
;
; This is the oldest form of virtualization, and it works for each instruction that faults. The later guests show
; instructions that should fault and do not.

.include "xen.inc"

start:
    clts
    print_text "CLTS in ring 1, and the kernel goes on.\n"
    shutdown poweroff
