; ---
; title = "A system call whose entry masks events goes through the hypervisor"
; modes = ["pv"]
;
; [expect]
; console = """
; Entry without masking: EIP behind the INT, mask 00000000, saved mask 00000000
; Entry with masking: EIP behind the INT, mask 00000001, saved mask 00000000
; Entry for ring 1 only: #GP(00000402) at the INT
; """
;
; [expect.exits]
; gate = 1
; gp = 2
; ---
; A trap gate of the CPU cannot set a byte in memory. So a kernel that wants events masked on entry (flag 4 of the
; trap entry) gets no gate for 0x80: the IDT entry has DPL 0, the INT raises #GP(0x402), that is vector * 8 + 2, and
; Xen looks into the guest's table (arch/x86/traps.c, do_general_protection). If the entry's own DPL admits the
; caller, Xen moves EIP past the INT, masks, and bounces without an error code. If not, the kernel gets the #GP,
; with EIP at the INT.

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    map_shared_info
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    kernel_stack kernel_top
    open_to_user user_begin, user_end

    mov dword ptr [next], unmasked
    hypercall set_trap_table, plain
    enter_user user, user_top
unmasked:
    print_text "Entry without masking: "
    call report

    mov dword ptr [next], masked
    hypercall set_trap_table, masking
    enter_user user, user_top
masked:
    print_text "Entry with masking: "
    call report

    hypercall set_trap_table, kernel_only
    enter_user user, user_top
; Stack: error code, EIP, and the rest.
protection:
    expect_eq dword ptr [esp + 4], user
    print_text "Entry for ring 1 only: #GP("
    print_hex dword ptr [esp]
    print_text ") at the INT\n"
    shutdown poweroff

; Stack: EIP, CS | saved upcall mask << 16, EFLAGS, ESP, SS.
system_call:
    expect_eq esp, kernel_top - 20
    movzx ebp, byte ptr [shared_info + VCPU_INFO_MASK]
    movzx edi, byte ptr [esp + 6]
    expect_eq dword ptr [esp], behind
    mov byte ptr [shared_info + VCPU_INFO_MASK], 0
    mov esp, kernel_top
    jmp dword ptr [next]

report:
    print_text "EIP behind the INT, mask "
    print_hex ebp
    print_text ", saved mask "
    print_hex edi
    print_text "\n"
    ret

trap_table_begin plain
trap 0x80, 3, system_call
trap_table_end
trap_table_begin masking
trap 0x80, 3 | TRAP_INFO_IF, system_call
trap_table_end
trap_table_begin kernel_only
trap 0x80, 1, system_call
trap VECTOR_GP, 0, protection
trap_table_end
next: .long 0

.include "xen_routines.inc"
memory_routines
stack kernel_top

page shared_info

.align PAGE_SIZE
user_begin:
user:
    int 0x80
behind:
    ud2
.align PAGE_SIZE
.space PAGE_SIZE
user_top:
user_end:
