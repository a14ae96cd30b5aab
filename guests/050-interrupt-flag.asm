; ---
; title = "CLI and STI: bounced, or accepted and without effect"
; modes = ["pv"]
;
; [expect]
; console = """
; IOPL 0: CLI and STI are #GP(0)
; IOPL 1: both are accepted, and the event mask stays as it was
; the mask itself: no exit at all
; """
; exits = { gp = 4 }
; hypercalls = { physdev_op = 1, update_va_mapping = 1 }
; ---
; CLI and STI are allowed when CPL <= IOPL, else #GP(0) (SDM 2, CLI). Guest code always runs with the real IOPL 0, so
; in ring 1 both fault. Xen keeps a virtual IOPL for each virtual CPU: if it is 1 or more (for the kernel) the
; instruction is skipped, and that is all: the virtual interrupt flag does not move (arch/x86/traps.c, "case 0xfa").
; With 0, which is where it starts, the fault is bounced to the kernel.
;
; The virtual interrupt flag is a byte in memory, vcpu_info.evtchn_upcall_mask, that kernel and Xen share: 1 is "off". A
; ported kernel writes it, at the price of one MOV.

.include "xen.inc"

start:
    map_shared_info
    hypercall set_trap_table, traps

    ; CLI and STI have one byte, and the handler goes on behind it.
    mov edi, offset at_cli
at_cli:
    cli
    expect_eq dword ptr [faults], 1
    mov edi, offset at_sti
at_sti:
    sti
    expect_eq dword ptr [faults], 2
    print_text "IOPL 0: CLI and STI are #GP(0)\n"

    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    expect_eq eax, 0
    pop eax
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    cli
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    expect_eq eax, 0
    mov byte ptr [shared_info + VCPU_INFO_MASK], 1
    sti
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    expect_eq eax, 1
    expect_eq dword ptr [faults], 2
    print_text "IOPL 1: both are accepted, and the event mask stays as it was\n"

    enable_events
    disable_events
    print_text "the mask itself: no exit at all\n"
    shutdown poweroff

on_gp:
    cmp dword ptr [esp], 0
    jne strange
    cmp [esp + 4], edi
    jne strange
    inc dword ptr [faults]
    inc dword ptr [esp + 4]
    add esp, 4
    iretd
strange:
    fail "not the #GP(0) that was due"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
faults: .long 0
page shared_info
