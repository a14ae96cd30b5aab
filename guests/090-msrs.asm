; ---
; title = "MSRs are read for real and written in vain; WBINVD is ignored"
; modes = ["pv"]
;
; [expect]
; console = """
; IA32_PAT 00070406 00070406, before and after a write
; no such MSR: reading is #GP(0), writing is not
; MSR 40000000: a hypercall page, and a call through it
; WBINVD is skipped
; """
; exits = { gp = 7 }
; ---
; RDMSR and WRMSR are #GP(0) in ring 1. Xen 3.0.4 executes RDMSR for whoever asks, so the guest sees the machine;
; where the machine has no such register, its own #GP(0) becomes the guest's. WRMSR is accepted and ignored, with a
; line in Xen's log (arch/x86/traps.c). IA32_PAT (277h) has a value that is known: that after reset (SDM 3 section
; 11.12.4).
;
; One number is Xen's own since 3.0.4: writing the machine address of a page to MSR 40000000h fills that page with the
; stubs that call each hypercall (wrmsr_hypervisor_regs).

.include "xen.inc"

IA32_PAT = 0x277
NO_MSR = 0x12345
XEN_MSR = 0x40000000

start:
    mov ebp, esi
    hypercall set_trap_table, traps

    mov ecx, IA32_PAT
    rdmsr
    expect_eq eax, 0x00070406
    expect_eq edx, 0x00070406
    print_text "IA32_PAT "
    print_hex edx
    print_text " "
    print_hex eax
    mov eax, 0
    mov edx, 0
    wrmsr
    rdmsr
    expect_eq eax, 0x00070406
    expect_eq edx, 0x00070406
    print_text ", before and after a write\n"

    mov ecx, NO_MSR
    rdmsr
    expect_eq dword ptr [faults], 1
    wrmsr
    expect_eq dword ptr [faults], 1
    print_text "no such MSR: reading is #GP(0), writing is not\n"

    ; The frame is the machine's, as ever.
    mov edx, [ebp + START_INFO_MFN_LIST]
    mov eax, [edx + 4 * (stubs >> PAGE_SHIFT)]
    shl eax, PAGE_SHIFT
    mov edx, 0
    mov ecx, XEN_MSR
    wrmsr
    hypercall_arguments XENVER_version, 0
    call stubs + HYPERCALL_STUB_SIZE * __HYPERVISOR_xen_version
    expect_eq eax, XEN_VERSION
    print_text "MSR 40000000: a hypercall page, and a call through it\n"

    wbinvd
    expect_eq dword ptr [faults], 1
    print_text "WBINVD is skipped\n"
    shutdown poweroff

; RDMSR and WRMSR have two bytes.
on_gp:
    cmp dword ptr [esp], 0
    jne strange
    inc dword ptr [faults]
    add dword ptr [esp + 4], 2
    add esp, 4
    iretd
strange:
    fail "not a #GP(0)"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
faults: .long 0
page stubs
