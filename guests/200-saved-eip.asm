; ---
; title = "Faults and traps: where EIP points when the handler looks"
; modes = ["pv"]
;
; [expect]
; console = """
; #DE: at DIV
; #BP: behind INT3
; #OF: behind INTO
; #BR: at BOUND
; #UD: at UD2
; #GP(e008): at MOV, a selector of Xen's
; #PF(2): at MOV, a write to nothing
; #PF(0): at the address that was jumped to
; """
; exits = { de = 1, bp = 1, of = 1, br = 1, ud = 1, gp = 1, pf = 2 }
; ---
; A fault is reported before the instruction had any effect, with EIP at it, so that it can be tried again; a trap
; after it, with EIP behind it (SDM 3, table 6-1). Xen adds nothing: it bounces to the guest's trap table what the CPU
; raised, with an error code where the CPU gives one (vectors 8, 10 to 14, 17), and with CR2 in vcpu_info for a page
; fault.

.include "xen.inc"

NOTHING = 0x40000000

; raised VECTOR, ERROR, EIP: what the handler noted.
.macro raised vector, error, eip
    expect_eq dword ptr [seen_vector], \vector
    expect_eq dword ptr [seen_error], \error
    expect_eq dword ptr [seen_eip], \eip
.endm

; entry NAME, VECTOR [, 1]: push a zero where the CPU pushes no error code, then the vector.
.macro entry name, vector, has_code=0
\name:
    .if \has_code == 0
    push 0
    .endif
    push \vector
    jmp note
.endm

start:
    map_shared_info
    hypercall set_trap_table, traps

    mov dword ptr [go_on], offset behind_div
    mov eax, 1
    mov edx, 0
    mov ecx, 0
at_div:
    div ecx
behind_div:
    raised VECTOR_DE, 0, at_div
    expect_eq eax, 1                ; nothing of the instruction happened
    print_text "#DE: at DIV\n"

    mov dword ptr [go_on], offset behind_int3
    int3
behind_int3:
    raised VECTOR_BP, 0, behind_int3
    print_text "#BP: behind INT3\n"

    mov dword ptr [go_on], offset behind_into
    mov al, 0x7F
    inc al
    into
behind_into:
    raised VECTOR_OF, 0, behind_into
    print_text "#OF: behind INTO\n"

    mov dword ptr [go_on], offset behind_bound
    mov eax, 11
at_bound:
    bound eax, [bounds]
behind_bound:
    raised VECTOR_BR, 0, at_bound
    print_text "#BR: at BOUND\n"

    mov dword ptr [go_on], offset behind_ud2
at_ud2:
    ud2
behind_ud2:
    raised VECTOR_UD, 0, at_ud2
    print_text "#UD: at UD2\n"

    mov dword ptr [go_on], offset behind_load
    mov eax, HYPERVISOR_CS
at_load:
    mov fs, ax
behind_load:
    raised VECTOR_GP, HYPERVISOR_CS, at_load
    print_text "#GP(e008): at MOV, a selector of Xen's\n"

    mov dword ptr [go_on], offset behind_write
at_write:
    mov [NOTHING + 4], eax
behind_write:
    raised VECTOR_PF, PFEC_W, at_write
    mov eax, [shared_info + VCPU_INFO_CR2]
    expect_eq eax, NOTHING + 4
    print_text "#PF(2): at MOV, a write to nothing\n"

    ; A fetch is a read of the page that EIP names already.
    mov dword ptr [go_on], offset behind_jump
    mov eax, NOTHING
    jmp eax
behind_jump:
    raised VECTOR_PF, 0, NOTHING
    mov eax, [shared_info + VCPU_INFO_CR2]
    expect_eq eax, NOTHING
    print_text "#PF(0): at the address that was jumped to\n"
    shutdown poweroff

    entry on_de, VECTOR_DE
    entry on_bp, VECTOR_BP
    entry on_of, VECTOR_OF
    entry on_br, VECTOR_BR
    entry on_ud, VECTOR_UD
    entry on_gp, VECTOR_GP, 1
    entry on_pf, VECTOR_PF, 1

; Stack: vector, error code or 0, EIP, CS, EFLAGS.
note:
    pop dword ptr [seen_vector]
    pop dword ptr [seen_error]
    pop dword ptr [seen_eip]
    push dword ptr [go_on]
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_DE, 0, on_de
    trap VECTOR_BP, 0, on_bp
    trap VECTOR_OF, 0, on_of
    trap VECTOR_BR, 0, on_br
    trap VECTOR_UD, 0, on_ud
    trap VECTOR_GP, 0, on_gp
    trap VECTOR_PF, 0, on_pf
trap_table_end
bounds: .long 0, 10
seen_vector: .long 0
seen_error: .long 0
seen_eip: .long 0
go_on: .long 0
page shared_info
