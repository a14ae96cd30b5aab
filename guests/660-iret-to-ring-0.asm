; ---
; title = "The iret hypercall with a selector of ring 0: the domain is crashed"
; modes = ["pv"]
;
; [expect]
; console = "The instruction gives #GP, the hypercall is the end.\n"
; crash = "iret to ring 0"
;
; [expect.hypercalls]
; iret = 1
;
; [expect.exits]
; gp = 1
; ---
; IRET executed by the guest is checked by the CPU, which does not return to an inner ring. The iret hypercall is
; executed by Xen, in ring 0, on a frame that the guest wrote: there the same IRET would succeed. So Xen looks at
; the selector first and ends a domain that asks for ring 0 (x86_32/traps.c, do_iret).

.include "xen.inc"
.include "xen_try.inc"

start:
    try_begin
    push EFLAGS_FIXED | EFLAGS_IF
    push HYPERVISOR_CS
    push start
    raises VECTOR_GP, HYPERVISOR_CS, iretd
    print_text "The instruction gives #GP, the hypercall is the end.\n"
    iret_hypercall
    fail "the hypercall came back"

.include "xen_routines.inc"
try_routines

page shared_info
