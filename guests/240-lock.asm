; ---
; title = "LOCK where it may not be: #UD comes before #GP"
; modes = ["pv"]
;
; [expect]
; console = """
; lock CLI, HLT, CLTS, MOV CR0: #UD
; lock NOP, lock MOV, lock ADD of a register: #UD
; lock rep CLTS: #UD
; lock ADD of memory: as it should be
; """
; exits = { ud = 8, gp = 0 }
; ---
; LOCK (F0) is for a few instructions that read and write memory; anywhere else the CPU raises #UD (SDM 2, LOCK), and
; it does so while decoding, before it asks for privileges (SDM 3, table 6-2). So a privileged instruction with LOCK
; never is the #GP that an emulator waits for, and Xen's prefix loop, which skips F0 like any other, never sees one.

.include "xen.inc"

; undefined BYTES: they must be #UD.
.macro undefined bytes:vararg
    mov edi, offset .Lbehind_\@
    .byte \bytes
    fail "no #UD"
.Lbehind_\@:
.endm

start:
    hypercall set_trap_table, traps

    undefined 0xF0, 0xFA                    ; cli
    undefined 0xF0, 0xF4                    ; hlt
    undefined 0xF0, 0x0F, 0x06              ; clts
    undefined 0xF0, 0x0F, 0x22, 0xC0        ; mov cr0, eax
    print_text "lock CLI, HLT, CLTS, MOV CR0: #UD\n"

    undefined 0xF0, 0x90                    ; nop
    undefined 0xF0, 0x89, 0x05, 0, 0, 0, 0  ; mov [0], eax
    undefined 0xF0, 0x01, 0xC0              ; add eax, eax
    print_text "lock NOP, lock MOV, lock ADD of a register: #UD\n"

    ; REP behind it belongs to the same group of prefixes, and hides LOCK from some decoders, not from the CPU.
    undefined 0xF0, 0xF3, 0x0F, 0x06
    print_text "lock rep CLTS: #UD\n"

    mov edi, 0
    lock add dword ptr [counter], 2
    expect_eq dword ptr [counter], 2
    print_text "lock ADD of memory: as it should be\n"
    shutdown poweroff

; EDI: where to go on.
on_ud:
    test edi, edi
    jz 1f
    mov [esp], edi
    iretd
1:  fail "a #UD that was not due"

on_gp:
    fail "#GP where LOCK comes first"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_UD, 0, on_ud
    trap VECTOR_GP, 0, on_gp
trap_table_end
counter: .long 0
