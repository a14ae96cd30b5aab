; ---
; title = "INT n in every flavour, and who checks the gate"
; modes = ["pv"]
;
; [expect]
; console = """
; int 21, DPL 1: a trap, no error code
; int 21, DPL 0: #GP(10a) at the instruction
; int 0d: a trap, and no error code either
; int3 and int 3: the DPL does not matter
; into: only with OF
; int1 is #DB, int 1 is a gate like any other
; int 80: through its own gate
; int 82: a hypercall, number 63 is -ENOSYS
; """
; exits = { gp = 4, bp = 2, of = 1, db = 1, gate = 1 }
; ---
; INT n asks the IDT, and the IDT is Xen's. All its gates have DPL 0 but 3 and 4 (DPL 3), 82h (DPL 1), and 80h if the
; guest asked for it. So nearly every INT n of ring 1 is #GP(n * 8 + 2): the vector, and bit 1 for "in the IDT" (SDM 3
; section 6.13). Xen knows such a fault by that bit, and looks at the entry that the guest gave for n in its trap
; table: if that entry's DPL allows the ring, EIP moves behind the instruction and the guest's handler is entered as
; by the CPU, without an error code. If not, the fault stays a fault (arch/x86/traps.c, do_general_protection).
;
; Vector 80h is special: set_trap_table makes it a real gate, so that system calls need no hypervisor at all.

.include "xen.inc"

; trap_at NAME, VECTOR: the last trap was this one, and EIP that of NAME.
.macro trap_at eip, vector
    expect_eq dword ptr [last_vector], \vector
    expect_eq dword ptr [last_eip], \eip
    mov dword ptr [last_vector], -1
.endm

; handler NAME, VECTOR: note vector and EIP and return. The stack holds EIP, CS, EFLAGS.
.macro handler name, vector
\name:
    mov dword ptr [last_vector], \vector
    pop dword ptr [last_eip]
    push dword ptr [last_eip]
    iretd
.endm

start:
    hypercall set_trap_table, traps
    mov ebp, esp

    int 0x21
behind_21:
    trap_at behind_21, 0x21
    expect_eq esp, ebp
    print_text "int 21, DPL 1: a trap, no error code\n"

    hypercall set_trap_table, stricter
    mov dword ptr [go_on], offset behind_refused_21
refused_21:
    int 0x21
behind_refused_21:
    trap_at refused_21, VECTOR_GP
    expect_eq dword ptr [last_error], 0x21 * 8 + ERROR_IDT
    print_text "int 21, DPL 0: #GP(10a) at the instruction\n"

    ; A software interrupt never pushes an error code, whatever the vector (SDM 3 section 6.4.2). So the handler of #GP,
    ; which takes one off the stack, is not the one to have now.
    hypercall set_trap_table, soft
    int 0x0D
behind_0d:
    trap_at behind_0d, 0x0D
    expect_eq esp, ebp
    hypercall set_trap_table, traps
    print_text "int 0d: a trap, and no error code either\n"

    ; The real gates 3 and 4 have DPL 3, and Xen asks no further.
    int3
behind_int3:
    trap_at behind_int3, VECTOR_BP
    .byte 0xCD, 3
behind_int_3:
    trap_at behind_int_3, VECTOR_BP
    print_text "int3 and int 3: the DPL does not matter\n"

    mov eax, 1
    add eax, eax
    into
    expect_eq dword ptr [last_vector], -1
    mov eax, 0x7FFFFFFF
    inc eax
    into
behind_into:
    trap_at behind_into, VECTOR_OF
    print_text "into: only with OF\n"

    .byte 0xF1
behind_int1:
    trap_at behind_int1, VECTOR_DB
    mov dword ptr [go_on], offset behind_int_1
int_1:
    .byte 0xCD, 1
behind_int_1:
    trap_at int_1, VECTOR_GP
    expect_eq dword ptr [last_error], 1 * 8 + ERROR_IDT
    print_text "int1 is #DB, int 1 is a gate like any other\n"

    int 0x80
behind_80:
    trap_at behind_80, 0x80
    print_text "int 80: through its own gate\n"

    mov eax, NR_HYPERCALLS - 1
    int HYPERCALL_VECTOR
    expect_error ENOSYS
    expect_eq dword ptr [last_vector], -1
    print_text "int 82: a hypercall, number 63 is -ENOSYS\n"
    shutdown poweroff

    handler on_21, 0x21
    handler on_0d, 0x0D
    handler on_db, VECTOR_DB
    handler on_bp, VECTOR_BP
    handler on_of, VECTOR_OF
    handler on_80, 0x80

; A fault with an error code: go on where we were told to.
on_gp:
    mov dword ptr [last_vector], VECTOR_GP
    pop dword ptr [last_error]
    pop dword ptr [last_eip]
    push dword ptr [go_on]
    iretd

.include "xen_routines.inc"

last_vector: .long -1
last_error: .long 0
last_eip: .long 0
go_on: .long 0

trap_table_begin traps
    trap VECTOR_DB, 0, on_db
    trap VECTOR_BP, 0, on_bp
    trap VECTOR_OF, 0, on_of
    trap VECTOR_GP, 0, on_gp
    trap 0x21, 1, on_21
    trap 0x80, 3, on_80
trap_table_end
trap_table_begin stricter
    trap 0x21, 0, on_21
trap_table_end
trap_table_begin soft
    trap VECTOR_GP, 1, on_0d
trap_table_end
