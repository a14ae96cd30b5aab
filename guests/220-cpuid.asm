; ---
; title = "CPUID: asked of the CPU, or of Xen by a prefix"
; modes = ["pv"]
;
; [expect]
; console = """
; the CPU: PSE and SEP
; Xen: neither, nor VME, DE, PGE
; leaf 40000000: XenVMMXenVMM
; without the prefix nobody of that name is known
; UD2 alone is still #UD
; """
; exits = { cpuid = 3, ud = 4, gp = 0 }
; ---
; CPUID is not privileged either: a guest sees what the machine can do, and tries to use it. The kernels of 3.0.0 had
; a list of features to ignore. From 3.0.2 on they put five bytes before it: UD2 and the letters "xen". The CPU raises
; #UD at the UD2; Xen looks, finds its mark and a CPUID behind it, answers as suits a guest in ring 1, and goes on
; behind all seven bytes (arch/x86/traps.c, emulate_forced_invalid_op). Taken out of leaf 1: VME DE PSE PGE SEP, and
; MTRR.

.include "xen.inc"

VME = 1 << 1
DE = 1 << 2
PSE = 1 << 3
SEP = 1 << 11
PGE = 1 << 13
HIDDEN = VME | DE | PSE | SEP | PGE
FPU = 1
TSC = 1 << 4

start:
    hypercall set_trap_table, traps

    mov eax, 1
    cpuid
    and edx, PSE | SEP
    expect_eq edx, PSE | SEP
    print_text "the CPU: PSE and SEP\n"

    mov eax, 1
    xen_cpuid
    mov ebx, edx
    and ebx, HIDDEN
    expect_eq ebx, 0
    and edx, FPU | TSC              ; the rest is the CPU's
    expect_eq edx, FPU | TSC
    print_text "Xen: neither, nor VME, DE, PGE\n"

    ; Leaves of the hypervisor's own, since 3.0.4: the highest one, and a signature in EBX, ECX, EDX.
    mov eax, 0x40000000
    xen_cpuid
    expect_eq eax, 0x40000002
    mov [signature], ebx
    mov [signature + 4], ecx
    mov [signature + 8], edx
    expect_eq ebx, 0x566E6558       ; "XenV"
    print_text "leaf 40000000: "
    print signature
    print_text "\n"
    mov eax, 0x40000001
    xen_cpuid
    expect_eq eax, XEN_VERSION

    ; Beyond its highest leaf the CPU answers with the highest basic one (SDM 2, CPUID).
    mov eax, 0
    cpuid
    mov eax, 0x40000000
    cpuid
    cmp ebx, 0x566E6558
    je wrong
    print_text "without the prefix nobody of that name is known\n"

    mov dword ptr [go_on], offset behind_ud2
    ud2
    fail "UD2 went through"
behind_ud2:
    print_text "UD2 alone is still #UD\n"
    shutdown poweroff
wrong:
    fail "the CPU knows Xen"

on_ud:
    push eax
    mov eax, [go_on]
    mov [esp + 4], eax
    pop eax
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_UD, 0, on_ud
trap_table_end
go_on: .long 0
    message signature, "............"
