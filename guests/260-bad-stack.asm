; ---
; title = "The end: a stack that cannot take the frame"
; modes = ["pv"]
;
; [expect]
; verdict = "crash"
; crash = "cannot take the frame"
; console = "a good handler, and no stack to call it on\n"
; exits = { bp = 1, pf = 0 }
; registers = { esp = 0x40000000 }
; ---
; To bounce an exception, Xen writes EIP, CS and EFLAGS to the guest's stack: in ring 1 to the present one. If there
; is no page, there is nothing that the guest could be told, because it would be told on the same stack. Xen ends the
; domain (x86_32/entry.S, the fixups of create_bounce_frame). A kernel on hardware would meet #DF here, which has a
; task gate and a stack of its own for this case; a guest of Xen 3.0 gets no #DF.

.include "xen.inc"

start:
    hypercall set_trap_table, traps
    print_text "a good handler, and no stack to call it on\n"
    mov esp, 0x40000000
    int3

on_bp:
    fail "the handler was called"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_BP, 0, on_bp
trap_table_end
