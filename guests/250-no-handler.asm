; ---
; title = "The end: a fault without a handler"
; modes = ["pv"]
;
; [expect]
; verdict = "crash"
; crash = "no handler for #UD"
; console = "no trap table yet\n"
; exits = { ud = 1 }
; ---
; Until set_trap_table has been called, each entry of the guest's trap table holds the address 0. Hardware would go on
; to a double fault and a reset; Xen 3.0 ends the domain and prints its registers (create_bounce_frame in
; x86_32/entry.S, domain_crash_synchronous). The report below the verdict is this laboratory's version of that.

.include "xen.inc"

start:
    print_text "no trap table yet\n"
    ud2
