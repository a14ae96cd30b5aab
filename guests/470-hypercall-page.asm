; ---
; title = "The hypercall page: the instruction is Xen's choice"
; modes = ["pv"]
;
; [expect]
; console = """
; Called through the page: version 00030000
; The stub is MOV EAX, 17; INT 0x82; RET.
; The stub of iret is entered by a jump and saves EAX itself: 00abcdef
; WRMSR asks for another copy: the same.
; """
;
; [expect.hypercalls]
; xen_version = 2
; iret = 1
;
; [expect.exits]
; # the WRMSR, and one that Xen refuses
; gp = 2
; ---
; int 0x82 is how this Xen takes hypercalls on this CPU; another may want SYSENTER, or VMCALL for a guest in a VM.
; So since 3.0.2 Xen fills a page of the guest's with one stub of 32 bytes a number, and the guest calls stub n at
; page + 32 * n. Where the page is the guest says in its image; here by the label `hypercall_page`. WRMSR to
; 0x40000000 fills another one, given by machine frame (arch/x86/traps.c, wrmsr_hypervisor_regs).

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

start:
    try_begin
    memory_begin
    hypercall_via_page xen_version, XENVER_version, 0
    print_text "Called through the page: version "
    print_hex eax
    print_text "\n"

    STUB = hypercall_page + HYPERCALL_STUB_SIZE * __HYPERVISOR_xen_version
    expect_eq dword ptr [STUB], 0x000011B8       ; MOV EAX, 17 is B8 11 00 00 00,
    expect_eq dword ptr [STUB + 4], 0xC382CD00   ; INT 0x82 is CD 82, RET is C3
    print_text "The stub is MOV EAX, 17; INT 0x82; RET.\n"

    mov eax, 0xABCDEF
    push EFLAGS_FIXED | EFLAGS_IF
    push FLAT_KERNEL_CS
    push landed
    jmp hypercall_page + HYPERCALL_STUB_SIZE * __HYPERVISOR_iret
landed:
    print_text "The stub of iret is entered by a jump and saves EAX itself: "
    print_hex eax
    print_text "\n"

    machine_frame copy
    shl eax, PAGE_SHIFT
    mov edx, 0
    mov ecx, 0x40000000
    wrmsr
    mov esi, hypercall_page
    mov edi, copy
    mov ecx, PAGE_SIZE / 4
    cld
    repe cmpsd
    expect_eq ecx, 0
    mov ebx, XENVER_version
    mov ecx, 0
    call copy + HYPERCALL_STUB_SIZE * __HYPERVISOR_xen_version
    expect_eq eax, XEN_VERSION
    print_text "WRMSR asks for another copy: the same.\n"

    mov eax, 1 << PAGE_SHIFT                     ; not our frame
    mov ecx, 0x40000000
    raises VECTOR_GP, 0, wrmsr
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines

page shared_info
page hypercall_page
page copy
