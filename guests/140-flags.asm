; ---
; title = "PUSHF, POPF, IRET: the interrupt flag that cannot be changed"
; modes = ["pv"]
;
; [expect]
; console = """
; PUSHF: IF 1 and IOPL 0, whatever the mask says
; POPF with IF 0 and IOPL 3: dropped
; IRET with IF 0: dropped
; a virtual IOPL of 3 does not show either
; """
; exits = { gp = 0 }
; ---
; PUSHF shows EFLAGS as it is, and while a guest runs the real IF is always 1 and the real IOPL 0. POPF and IRET load
; IF only if CPL <= IOPL and IOPL only in ring 0; otherwise the bits are dropped without a word (SDM 2, POPF table
; 4-15, and IRET). `pushf; cli; ...; popf`, the most common line in any kernel, so breaks twice: CLI faults, and POPF
; does nothing. A ported kernel reads and writes the event mask instead.

.include "xen.inc"

IF_AND_IOPL = EFLAGS_IF | EFLAGS_IOPL

start:
    map_shared_info                 ; the mask is 1 since boot: the virtual IF is 0
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    expect_eq eax, 1
    ; CMP defines every arithmetic flag: here ZF and PF are 1 and the rest are 0.
    cmp eax, eax
    pushf
    pop eax
    expect_eq eax, EFLAGS_FIXED | EFLAGS_IF | EFLAGS_ZF | EFLAGS_PF
    print_text "PUSHF: IF 1 and IOPL 0, whatever the mask says\n"

    ; CF is loaded, IF and IOPL are not. The 16-bit form is no better.
    push EFLAGS_FIXED | EFLAGS_IOPL | EFLAGS_CF
    popf
    pushf
    pop eax
    expect_eq eax, EFLAGS_FIXED | EFLAGS_IF | EFLAGS_CF
    push word EFLAGS_FIXED
    popfw
    pushf
    pop eax
    expect_eq eax, EFLAGS_FIXED | EFLAGS_IF
    print_text "POPF with IF 0 and IOPL 3: dropped\n"

    push EFLAGS_FIXED | EFLAGS_ZF
    push cs
    push offset returned
    iretd
returned:
    pushf
    pop eax
    expect_eq eax, EFLAGS_FIXED | EFLAGS_IF | EFLAGS_ZF
    print_text "IRET with IF 0: dropped\n"

    push 3
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    expect_eq eax, 0
    pop eax
    pushf
    pop eax
    and eax, IF_AND_IOPL
    expect_eq eax, EFLAGS_IF
    print_text "a virtual IOPL of 3 does not show either\n"
    shutdown poweroff

.include "xen_routines.inc"
page shared_info
