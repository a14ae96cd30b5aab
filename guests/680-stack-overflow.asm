; ---
; title = "A kernel that overflows its stack: no room for the frame that would tell it"
; modes = ["pv"]
;
; [expect]
; console = "Down and down.\n"
; crash = "cannot take the frame of #PF"
;
; [expect.exits]
; # the first push beyond the end; the frame for it cannot be written either, and that is seen by Xen, not by the CPU
; pf = 1
; ---
; A fault in ring 1 is delivered on the stack in use: there is no other, for a trap to the same ring does not
; switch. If the fault is that this stack has ended, the frame has no place. Bare hardware would raise a double
; fault and, with a task gate, switch to a stack of its own; Xen offers a guest no double fault and crashes the
; domain (x86_32/entry.S, create_bounce_frame).

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    hypercall set_trap_table, traps
    map below_the_stack, 0
    expect_eq eax, 0
    print_text "Down and down.\n"
    mov esp, stack_top
down:
    call down

page_fault:
    fail "the handler was entered"

trap_table_begin traps
trap VECTOR_PF, 0, page_fault
trap_table_end

.include "xen_routines.inc"
memory_routines

page below_the_stack
.space PAGE_SIZE
stack_top:
