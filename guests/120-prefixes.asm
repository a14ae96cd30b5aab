; ---
; title = "Prefixes: seven are read, an eighth is refused"
; modes = ["pv"]
;
; [expect]
; console = """
; segment, REP and size prefixes before CLTS: emulated
; 7 prefixes: emulated
; 8 prefixes: #GP(0)
; 66 IN: 16 bits
; 66 66 IN: 16 bits on silicon, 32 under Xen
; """
; exits = { gp = 7, ud = 0 }
; ---
; An instruction may have any number of prefixes within its 15 bytes (SDM 2, section 2.1.1), repeated or useless. An
; emulator that decodes by itself has its own ideas. That of Xen 3.0 looks at most at 8 bytes for prefixes: if the
; eighth is one too, it is taken for the opcode, which is on no list. And it toggles the operand size at each 66,
; where the CPU counts any number of them as one.
;
; Differences like these are what a test against silicon finds. They are harmless here; in other emulators they were
; not.

.include "xen.inc"

start:
    hypercall set_trap_table, traps

    mov edi, 0                      ; no fault is due
    .byte 0x2E, 0x0F, 0x06          ; cs
    .byte 0xF3, 0x0F, 0x06          ; rep
    .byte 0x66, 0x67, 0x0F, 0x06    ; operand size, address size
    print_text "segment, REP and size prefixes before CLTS: emulated\n"

    .byte 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF2, 0x0F, 0x06
    print_text "7 prefixes: emulated\n"

    mov edi, offset refused
    .byte 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF2, 0xF3, 0x0F, 0x06
    fail "8 prefixes were emulated"
refused:
    print_text "8 prefixes: #GP(0)\n"

    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    pop eax
    mov edx, 0x80
    mov eax, 0
    .byte 0x66, 0xED                ; in ax, dx
    expect_eq eax, 0xFFFF
    print_text "66 IN: 16 bits\n"
    mov eax, 0
    .byte 0x66, 0x66, 0xED          ; in ax, dx to the CPU
    expect_eq eax, 0xFFFFFFFF
    print_text "66 66 IN: 16 bits on silicon, 32 under Xen\n"
    shutdown poweroff

; EDI: where to go on.
on_gp:
    cmp dword ptr [esp], 0
    jne strange
    test edi, edi
    jz strange
    mov [esp + 4], edi
    add esp, 4
    iretd
strange:
    fail "a #GP that was not due"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
