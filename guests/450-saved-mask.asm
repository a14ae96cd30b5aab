; ---
; title = "The virtual IF in a bounce frame: the saved upcall mask, and IRET that does not restore it"
; modes = ["pv"]
;
; [expect]
; console = """
; deliverable, plain entry:   mask 00000000 saved 00000000 IF 00000200
; deliverable, masking entry: mask 00000001 saved 00000000 IF 00000200
; masked, plain entry:        mask 00000001 saved 00000001 IF 00000000
; masked, masking entry:      mask 00000001 saved 00000001 IF 00000000
; IRET left the mask at 00000001
; The iret hypercall took it from IF: 00000000
; """
;
; [expect.exits]
; gp = 6
;
; [expect.hypercalls]
; iret = 1
; ---
; The real IF is 1 whenever a guest runs; its virtual IF is the inverse of evtchn_upcall_mask. Xen saves that byte
; where a bounce frame has room: in bits 23:16 of the CS slot. It also makes IF of the EFLAGS image say the same,
; for kernels that look there (x86_32/entry.S, create_bounce_frame). On entry the mask changes only if the trap
; entry asks for it.
;
; On the way back IRET restores nothing of this: at IOPL 0 it leaves IF alone, and of the mask it knows nothing. The
; kernel stores the byte itself, or uses the iret hypercall, for which IF of the frame decides.

.include "xen.inc"

start:
    map_shared_info
    hypercall set_trap_table, traps

    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    print_text "deliverable, plain entry:   "
    int 0x20
    print_text "deliverable, masking entry: "
    int 0x21
    mov byte ptr [shared_info + VCPU_INFO_MASK], 1
    print_text "masked, plain entry:        "
    int 0x20
    print_text "masked, masking entry:      "
    int 0x21

    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    int 0x22                                     ; masks, and returns by IRET alone
    print_text "IRET left the mask at "
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    print_hex eax
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    int 0x23                                     ; masks, and returns by the hypercall
    print_text "\nThe iret hypercall took it from IF: "
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    print_hex eax
    print_text "\n"
    shutdown poweroff

; Stack: EIP, CS | saved upcall mask << 16, EFLAGS.
entry:
    pushad
    movzx ebp, byte ptr [shared_info + VCPU_INFO_MASK]
    print_text "mask "
    print_hex ebp
    movzx eax, byte ptr [esp + 32 + 6]
    print_text " saved "
    print_hex eax
    mov eax, [esp + 32 + 8]
    and eax, EFLAGS_IF
    print_text " IF "
    print_hex eax
    print_text "\n"
    mov al, [esp + 32 + 6]                       ; what the kernel has to do
    mov [shared_info + VCPU_INFO_MASK], al
    popad
    iretd

careless:
    iretd

by_hypercall:
    iret_hypercall

trap_table_begin traps
trap 0x20, 1, entry
trap 0x21, 1 | TRAP_INFO_IF, entry
trap 0x22, 1 | TRAP_INFO_IF, careless
trap 0x23, 1 | TRAP_INFO_IF, by_hypercall
trap_table_end

.include "xen_routines.inc"

page shared_info
