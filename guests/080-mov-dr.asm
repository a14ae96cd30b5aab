; ---
; title = "Debug registers: emulated, and five ways to be refused"
; modes = ["pv"]
;
; [expect]
; console = """
; DR0 to DR3 hold addresses of the guest
; DR6 ffff0ff0 to ffffefff, DR7 00000501
; refused: DR0 above the guest, DR4, DR5, DR7.GD, DR7 with an I/O breakpoint
; the hypercalls agree
; """
; exits = { gp = 21, db = 0 }
; hypercalls = { set_debugreg = 5, get_debugreg = 2 }
; ---
; MOV to or from a debug register is #GP(0) in ring 1, and emulated by what the hypercalls set_debugreg and
; get_debugreg do (arch/x86/traps.c). The registers then really hold what the guest asked for, so Xen looks at it
; first: a breakpoint may only watch the guest's own addresses, fixed bits stay fixed (SDM 3, figure 17-1), DR7.GD
; would trap Xen's own accesses, and an I/O breakpoint would fire in Xen. What the hypercall refuses with an error is
; #GP(0) for the instruction.

.include "xen.inc"

; refuse NAME, REGISTER, VALUE: the instruction and the hypercall (which gives NAME) both say no.
.macro refuse error, register, value
    mov eax, \value
    mov edi, offset .Lrefused_\@
    mov dr\register, eax
    fail "dr\register took \value"
.Lrefused_\@:
    hypercall set_debugreg, \register, \value
    expect_error \error
.endm

; hold REGISTER, VALUE, SEEN: written, it reads as SEEN.
.macro hold register, value, seen
    mov eax, \value
    mov dr\register, eax
    mov eax, dr\register
    expect_eq eax, \seen
.endm

start:
    hypercall set_trap_table, traps

    hold 0, data, data
    hold 1, 0x1000, 0x1000
    hold 2, HYPERVISOR_VIRT_START - 4, HYPERVISOR_VIRT_START - 4
    hold 3, 0, 0
    print_text "DR0 to DR3 hold addresses of the guest\n"

    hold 6, 0, 0xFFFF0FF0
    hold 6, 0xFFFFFFFF, 0xFFFFEFFF
    ; L0 and LE; then with every reserved bit asked for, which changes nothing but bit 10, always 1.
    hold 7, 0x101, 0x501
    hold 7, 0xD901, 0x501
    print_text "DR6 ffff0ff0 to ffffefff, DR7 00000501\n"

    refuse EPERM, 0, HYPERVISOR_VIRT_START
    refuse EINVAL, 4, 0
    refuse EINVAL, 5, 0
    refuse EPERM, 7, 1 << 13
    refuse EPERM, 7, 2 << 16
    print_text "refused: DR0 above the guest, DR4, DR5, DR7.GD, DR7 with an I/O breakpoint\n"

    hypercall get_debugreg, 0
    expect_eq eax, data
    hypercall get_debugreg, 8
    expect_error EINVAL
    print_text "the hypercalls agree\n"
    shutdown poweroff

; EDI: where to go on.
on_gp:
    cmp dword ptr [esp], 0
    jne strange
    mov [esp + 4], edi
    add esp, 4
    iretd
strange:
    fail "not a #GP(0)"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
data: .long 0
