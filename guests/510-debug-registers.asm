; ---
; title = "Debug registers: set_debugreg, get_debugreg, and MOV"
; modes = ["pv"]
;
; [expect]
; console = """
; DR0 by hypercall, read by MOV: 12345678
; DR3 by MOV, read by hypercall: 00abc000
; DR6 keeps what cannot be written: ffff0ff0
; A breakpoint on Xen, GD, an I/O breakpoint, DR5: refused.
; """
;
; [expect.exits]
; # one write and two reads by MOV, and three writes that are refused
; gp = 6
;
; [expect.hypercalls]
; set_debugreg = 7
; get_debugreg = 3
; ---
; Debug registers are per CPU, and a breakpoint on an address of Xen's would be a way to make it stumble. So a guest
; gets only breakpoints on its own addresses, no general-detect (GD in DR7), no I/O breakpoints; reserved bits are
; kept right (arch/x86/traps.c, set_debugreg). MOV to and from DRn is privileged, faults, and is emulated by the
; same two functions.

.include "xen.inc"
.include "xen_try.inc"

start:
    try_begin
    hypercall set_debugreg, 0, 0x12345678
    expect_eq eax, 0
    mov eax, dr0
    print_text "DR0 by hypercall, read by MOV: "
    print_hex eax
    mov eax, 0xABC000
    mov dr3, eax
    hypercall get_debugreg, 3
    print_text "\nDR3 by MOV, read by hypercall: "
    print_hex eax

    hypercall set_debugreg, 6, 0
    expect_eq eax, 0
    mov eax, dr6
    expect_eq eax, 0xFFFF0FF0
    hypercall get_debugreg, 6
    expect_eq eax, 0xFFFF0FF0
    print_text "\nDR6 keeps what cannot be written: "
    print_hex eax
    print_text "\n"

    hypercall set_debugreg, 1, HYPERVISOR_VIRT_START
    expect_error EPERM
    hypercall set_debugreg, 7, 1 << 13           ; GD
    expect_error EPERM
    hypercall set_debugreg, 7, 2 << 16 | 1       ; R/W0 = 2: I/O
    expect_error EPERM
    hypercall set_debugreg, 5, 0
    expect_error EINVAL
    hypercall get_debugreg, 8
    expect_error EINVAL
    mov eax, HYPERVISOR_VIRT_START
    raises VECTOR_GP, 0, mov dr1, eax
    mov eax, 1 << 13
    raises VECTOR_GP, 0, mov dr7, eax
    raises VECTOR_GP, 0, mov dr5, eax
    hypercall set_debugreg, 7, 0
    expect_eq eax, 0
    print_text "A breakpoint on Xen, GD, an I/O breakpoint, DR5: refused.\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines

page shared_info
