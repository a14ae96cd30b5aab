; ---
; title = "#DB: single steps and a breakpoint"
; modes = ["pv"]
;
; [expect]
; console = """
; TF: four traps, each behind an instruction, BS in DR6
; over an emulated CLTS: the step is lost, the next one counts
; DR0: a fault at the instruction, B0 in DR6
; """
; exits = { db = 8, gp = 12 }
; ---
; With EFLAGS.TF the CPU raises #DB after each instruction: a trap, with EIP at the next one. The POPF that sets TF is
; not counted, the instruction behind it is the first (SDM 3 section 17.3.1.4). An instruction breakpoint, a DR0 that
; DR7 enables, is a fault: #DB before the instruction, which runs when RF is set in the flags that the handler returns
; by. DR6 tells them apart: BS (bit 14) and B0 (bit 0). Xen keeps it in the guest's virtual DR6, and clears TF on the
; way into the handler, as the CPU does.
;
; What Xen emulates is stepped over without a #DB in 3.0: EIP moves, TF stays, and the next instruction traps.

.include "xen.inc"

DR6_BS = 1 << 14
DR6_B0 = 1

; tf_on: POPF changes TF in every ring.
.macro tf_on
    push EFLAGS_FIXED | EFLAGS_TF
    popf
.endm

start:
    hypercall set_trap_table, traps

    tf_on
    nop
first:
    nop
second:
    push EFLAGS_FIXED
third:
    popf                            ; TF is tested as it was when the instruction began
fourth:
    expect_eq dword ptr [count], 4
    expect_eq dword ptr [places], first
    expect_eq dword ptr [places + 4], second
    expect_eq dword ptr [places + 8], third
    expect_eq dword ptr [places + 12], fourth
    mov eax, [last_dr6]
    and eax, DR6_BS | DR6_B0
    expect_eq eax, DR6_BS
    print_text "TF: four traps, each behind an instruction, BS in DR6\n"

    mov dword ptr [count], 0
    tf_on
    clts
    nop
over_clts:
    push EFLAGS_FIXED
    popf
    expect_eq dword ptr [count], 3
    expect_eq dword ptr [places], over_clts
    print_text "over an emulated CLTS: the step is lost, the next one counts\n"

    mov dword ptr [count], 0
    mov eax, 0
    mov dr6, eax
    mov eax, offset watched
    mov dr0, eax
    mov eax, 1                      ; L0, R/W 0 (execution), LEN 0
    mov dr7, eax
    mov ebx, 0
watched:
    inc ebx
    expect_eq ebx, 1
    expect_eq dword ptr [count], 1
    expect_eq dword ptr [places], watched
    mov eax, [last_dr6]
    and eax, DR6_BS | DR6_B0
    expect_eq eax, DR6_B0
    print_text "DR0: a fault at the instruction, B0 in DR6\n"
    shutdown poweroff

; Stack after two PUSHes: EIP at +8, CS, EFLAGS at +16. IRET brings back TF, for the next step, and RF, for the
; breakpoint.
on_db:
    push eax
    push ecx
    mov eax, dr6
    mov [last_dr6], eax
    mov ecx, [count]
    mov eax, [esp + 8]
    mov [places + 4 * ecx], eax
    inc dword ptr [count]
    or dword ptr [esp + 16], EFLAGS_RF
    pop ecx
    pop eax
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_DB, 0, on_db
trap_table_end
count: .long 0
last_dr6: .long 0
places: .space 32
