; ---
; title = "The silent ones: SGDT, SIDT, SLDT, STR, SMSW show the machine"
; modes = ["pv"]
;
; [expect]
; console = """
; GDTR fe800000 limit efff: Xen's table
; IDTR limit 07ff: Xen's table
; LDTR 0000
; TR e040: Xen's
; SMSW says TS is set, CR0 says it is not
; """
; exits = { gp = 1, ud = 0 }
; ---
; These five only read, so the architects of the 286 saw no need to guard them: they execute in every ring (SDM 2). A
; kernel that asks where its GDT is gets the answer for Xen's. No trap, no emulation, no way for a hypervisor of 2005
; to interfere; this is why x86 does not fulfil the classical condition for virtualization, that all sensitive
; instructions be privileged. (Much later CR4.UMIP made them #GP(0) outside ring 0.) Xen 3.0 lets them leak; a ported
; kernel does not use them.
;
; The count of #GP below is one: that of MOV from CR0, which does trap. SMSW reads the same register and does not. The
; virtual TS is 0 since boot, the real one is 1, because Xen gives out the FPU at its first use.
; (The engine that runs this guest gets SMSW r32 wrong, so its result is mended: an exit of kind `sensitive`.)

.include "xen.inc"

start:
    hypercall set_trap_table, traps

    ; Xen's part of each GDT is its page 14 (E000h), so the limit is that of 15 pages; base: Xen's area for this domain.
    sgdt [register]
    mov eax, [register + 2]
    expect_eq eax, GDT_VIRT_START
    movzx ebx, word ptr [register]
    expect_eq ebx, 0xEFFF
    print_text "GDTR "
    print_hex eax
    print_text " limit efff: Xen's table\n"

    ; 256 gates of 8 bytes. Where they are is up to Xen's linker; not below its own area.
    sidt [register]
    movzx ebx, word ptr [register]
    expect_eq ebx, 0x7FF
    cmp dword ptr [register + 2], HYPERVISOR_VIRT_START
    jb wrong
    print_text "IDTR limit 07ff: Xen's table\n"

    ; No LDT was asked for. A 32-bit destination is zero-extended, memory is always 16 bits.
    mov eax, 0xFFFFFFFF
    sldt eax
    expect_eq eax, 0
    mov dword ptr [register], 0xFFFFFFFF
    sldt word ptr [register]
    expect_eq dword ptr [register], 0xFFFF0000
    print_text "LDTR 0000\n"

    mov eax, 0xFFFFFFFF
    str eax
    expect_eq eax, TSS_SELECTOR
    str word ptr [register]
    expect_eq dword ptr [register], 0xFFFF0000 + TSS_SELECTOR
    print_text "TR e040: Xen's\n"

    mov ebx, cr0
    smsw eax
    expect_eq eax, CR0_PE | CR0_MP | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG
    and ebx, CR0_TS
    expect_eq ebx, 0
    smsw word ptr [register]
    expect_eq dword ptr [register], 0xFFFF003B
    print_text "SMSW says TS is set, CR0 says it is not\n"
    shutdown poweroff
wrong:
    fail "SIDT points below Xen"

on_gp:
    fail "one of them trapped"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
register: .long 0, 0
