; ---
; title = "A kernel stack that points into the hypervisor: the domain is crashed"
; modes = ["pv"]
;
; [expect]
; console = "stack_switch takes any address.\n"
; crash = "cannot take the frame"
;
; [expect.exits]
; ud = 1
; nested = 0
; ---
; stack_switch checks only the ring of the selector: ESP is used when an event comes from ring 3, and checked then.
; Writing a frame for the guest is the moment at which a careless hypervisor would write over itself. Xen tests the
; address like any pointer of a guest's and catches the fault; either way there is nobody left to tell, and it ends
; the domain (x86_32/entry.S, create_bounce_frame, domain_crash_synchronous).

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    hypercall set_trap_table, traps
    open_to_user user_begin, user_end
    kernel_stack GUEST_SEGMENT_MAX + 0x1000
    expect_eq eax, 0
    print_text "stack_switch takes any address.\n"
    enter_user user, user_end

never:
    fail "the handler was entered"

trap_table_begin traps
trap VECTOR_UD, 0, never
trap_table_end

.include "xen_routines.inc"
memory_routines

.align PAGE_SIZE
user_begin:
user:
    ud2
.align PAGE_SIZE
user_end:
