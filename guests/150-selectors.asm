; ---
; title = "Segments tell the ring: selectors, LAR, LSL, VERR, VERW"
; modes = ["pv"]
;
; [expect]
; console = """
; CS e019 SS e021: ring 1
; LAR: DPL 1 here, and Xen's descriptors are hidden
; LSL: the end of memory is at fc3fffff
; VERR and VERW: nothing of Xen's
; loading what ring 0 could load: 5 times #GP(selector)
; RETF and CALL stay in ring 1
; """
; exits = { gp = 5 }
; ---
; A selector's low bits are a privilege level, and reading CS or SS shows the present one: 1, where a kernel expects
; 0. LAR, LSL, VERR and VERW say through ZF what the present ring may see of a descriptor, and how large its segment
; is; they never fault (SDM 2). Flat segments end below Xen (FLAT_RING1_DS: limit fc3ff pages), and there the limit is
; all that protects Xen: its pages are supervisor pages, and ring 1 is supervisor (SDM 3 section 5.11.2).
;
; Loading a segment whose descriptor has DPL 0 does fault, and the error code is the selector without its RPL: such a
; fault is not for Xen to emulate, and goes to the kernel.

.include "xen.inc"

; refused SELECTOR, INSTRUCTION: #GP with the selector as error code.
.macro refused selector, instruction:vararg
    mov dword ptr [expected], \selector
    mov dword ptr [go_on], offset .Lrefused_\@
    \instruction
    fail "allowed: \instruction"
.Lrefused_\@:
.endm

start:
    hypercall set_trap_table, traps

    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS
    push ss
    pop eax
    expect_eq eax, FLAT_KERNEL_SS
    print_text "CS e019 SS e021: ring 1\n"

    ; 00CFBB00 0000C3FF, of which LAR shows the bits of 00F0FF00: present, DPL 1, code, readable, accessed; G and D.
    mov ecx, FLAT_KERNEL_CS
    lar eax, ecx
    jnz wrong
    expect_eq eax, 0x00C0BB00
    mov ecx, HYPERVISOR_CS
    lar eax, ecx
    jz wrong
    expect_eq eax, 0x00C0BB00       ; untouched
    print_text "LAR: DPL 1 here, and Xen's descriptors are hidden\n"

    mov ecx, FLAT_KERNEL_DS
    lsl eax, ecx
    jnz wrong
    expect_eq eax, GUEST_SEGMENT_MAX - 1
    mov ecx, HYPERVISOR_DS
    lsl eax, ecx
    jz wrong
    print_text "LSL: the end of memory is at "
    print_hex eax
    print_text "\n"

    mov ecx, FLAT_KERNEL_CS
    verr cx
    jnz wrong
    verw cx                         ; code is never writable
    jz wrong
    mov ecx, FLAT_KERNEL_DS
    verw cx
    jnz wrong
    mov ecx, HYPERVISOR_DS
    verr cx
    jz wrong
    print_text "VERR and VERW: nothing of Xen's\n"

    mov eax, HYPERVISOR_DS
    refused HYPERVISOR_DS, mov es, ax
    push HYPERVISOR_DS
    refused HYPERVISOR_DS, pop fs
    pop eax
    ; SS must have exactly the present ring in selector and descriptor.
    mov eax, FLAT_USER_SS
    refused FLAT_USER_SS - 3, mov ss, ax
    refused HYPERVISOR_CS, ljmp HYPERVISOR_CS, wrong
    push HYPERVISOR_CS
    push offset wrong
    refused HYPERVISOR_CS, retf
    pop eax
    pop eax
    print_text "loading what ring 0 could load: 5 times #GP(selector)\n"

    ; An RPL of 0 in a far call is no way up: it may not be above the ring, but CS gets the ring (SDM 2, CALL).
    lcall FLAT_KERNEL_CS - 1, called
    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS
    print_text "RETF and CALL stay in ring 1\n"
    shutdown poweroff

called:
    mov eax, [esp + 4]
    expect_eq eax, FLAT_KERNEL_CS
    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS
    retf

wrong:
    fail "a wrong answer about a descriptor"

on_gp:
    push eax
    mov eax, [esp + 4]
    expect_eq eax, dword ptr [expected]
    mov eax, [go_on]
    mov [esp + 8], eax
    pop eax
    add esp, 4
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
expected: .long 0
go_on: .long 0
