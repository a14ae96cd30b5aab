; ---
; title = "Every hypercall, given a pointer into Xen or a number that it does not know"
; modes = ["pv"]
;
; [expect]
; console = """
; A pointer into Xen, where nothing is mapped, and half across: -EFAULT.
; A command that does not exist: -ENOSYS or -EINVAL, as each has it.
; What is for the first domain: -EPERM.
; Numbers that nobody has: -ENOSYS.
; The domain is well.
; """
;
; [expect.exits]
; pf = 0
; gp = 0
; ---
; A hypercall takes pointers from a guest, and must not use them where the guest itself could not. access_ok says
; that the range ends below Xen (asm-x86/x86_32/uaccess.h); a fault on the way, absent or read-only, is caught. Both
; are -EFAULT and nothing else happens: Xen does not fault, and neither does the guest.
;
; The table below is a list of calls with the result that each must have. The loop makes them and compares.

.include "xen.inc"
.include "xen_memory.inc"

; must ERROR, NAME, five arguments
.macro must error, name, a=0, b=0, c=0, d=0, e=0
    .long -\error, __HYPERVISOR_\name, \a, \b, \c, \d, \e
.endm
ROW = 28

XEN = HYPERVISOR_VIRT_START                      ; the M2P table: readable for the guest, but no place for arguments
NOWHERE = 0x50000000                             ; below Xen, and nothing is mapped
ACROSS = HYPERVISOR_VIRT_START - 2               ; begins below, ends above

start:
    memory_begin
    remap readonly, PAGE_READONLY

    mov ebp, offset bad_pointers
    call each
    print_text "A pointer into Xen, where nothing is mapped, and half across: -EFAULT.\n"
    mov ebp, offset bad_commands
    call each
    print_text "A command that does not exist: -ENOSYS or -EINVAL, as each has it.\n"
    mov ebp, offset privileged
    call each
    print_text "What is for the first domain: -EPERM.\n"
    mov ebp, offset unknown
    call each
    print_text "Numbers that nobody has: -ENOSYS.\n"
    print_text "The domain is well.\n"
    shutdown poweroff

; EBP = a table that ends with 0.
each:
    cmp dword ptr [ebp], 0
    je end_of_table
    mov eax, [ebp + 4]
    mov ebx, [ebp + 8]
    mov ecx, [ebp + 12]
    mov edx, [ebp + 16]
    mov esi, [ebp + 20]
    mov edi, [ebp + 24]
    int HYPERCALL_VECTOR
    cmp eax, [ebp]
    jne wrong
    add ebp, ROW
    jmp each
end_of_table:
    ret
wrong:
    mov ebx, eax
    print_text "hypercall "
    print_dec dword ptr [ebp + 4]
    print_text " ("
    print_hex dword ptr [ebp + 8]
    print_text ", "
    print_hex dword ptr [ebp + 12]
    print_text ") gave "
    print_hex ebx
    fail ""

.include "xen_routines.inc"
memory_routines

.align 4
bad_pointers:
    must EFAULT, set_trap_table, XEN
    must EFAULT, set_trap_table, NOWHERE
    must EFAULT, set_trap_table, ACROSS
    must EFAULT, mmu_update, XEN, 1, 0, DOMID_SELF
    must EFAULT, mmu_update, NOWHERE, 1, 0, DOMID_SELF
    must EFAULT, mmu_update, readonly, 0, XEN, DOMID_SELF
    must EFAULT, set_gdt, XEN, 1
    must EFAULT, set_gdt, NOWHERE, 1
    must EFAULT, memory_op, XENMEM_current_reservation, XEN
    must EFAULT, memory_op, XENMEM_decrease_reservation, NOWHERE
    must EFAULT, multicall, XEN, 1
    must EFAULT, multicall, NOWHERE, 1
    must EFAULT, multicall, readonly, 1          ; the result cannot be stored
    must EFAULT, event_channel_op_compat, XEN
    must EFAULT, xen_version, XENVER_changeset, XEN
    must EFAULT, xen_version, XENVER_changeset, NOWHERE
    must EFAULT, xen_version, XENVER_changeset, readonly
    must EFAULT, console_io, CONSOLEIO_write, 1, XEN
    must EFAULT, console_io, CONSOLEIO_write, 4, ACROSS
    must EFAULT, console_io, CONSOLEIO_write, 0x7FFFFFFF, NOWHERE
    must EFAULT, console_io, CONSOLEIO_read, 1, XEN
    must EFAULT, physdev_op_compat, NOWHERE
    must EFAULT, vcpu_op, VCPUOP_initialise, 0, NOWHERE
    must EFAULT, vcpu_op, VCPUOP_get_runstate_info, 0, readonly
    must EFAULT, mmuext_op, XEN, 1, 0, DOMID_SELF
    must EFAULT, mmuext_op, NOWHERE, 1, 0, DOMID_SELF
    must EFAULT, sched_op, SCHEDOP_shutdown, XEN
    must EFAULT, sched_op, SCHEDOP_poll, NOWHERE
    must EFAULT, callback_op, CALLBACKOP_register, XEN
    must EFAULT, event_channel_op, EVTCHNOP_status, NOWHERE
    must EFAULT, event_channel_op, EVTCHNOP_alloc_unbound, ACROSS
    must EFAULT, physdev_op, PHYSDEVOP_set_iopl, NOWHERE
    .long 0

bad_commands:
    must EPERM, stack_switch, FLAT_USER_SS, 0    ; a kernel stack in ring 3
    must EINVAL, mmu_update, 0, 0, 0, 0          ; another domain
    must EINVAL, set_gdt, 0, FIRST_RESERVED_GDT_ENTRY + 1
    must EINVAL, set_debugreg, 4, 0
    must EINVAL, get_debugreg, 8
    must EINVAL, update_descriptor, 4, 0, 0, 0
    must ENOSYS, memory_op, 14, 0
    must EINVAL, update_va_mapping, XEN, 0, 0, 0
    must EINVAL, update_va_mapping, NOWHERE, 0, 0, 0
    must ENOSYS, sched_op_compat, 99, 0
    must ENOSYS, sched_op, 99, 0
    must ENOSYS, xen_version, 99, 0
    must ENOSYS, console_io, 99, 0, 0
    must EINVAL, vm_assist, VMASST_CMD_enable, 99
    must ENOSYS, vm_assist, 99, 0
    must ENOSYS, vcpu_op, 99, 0, 0
    must EINVAL, mmuext_op, 0, 0, 0, 0           ; another domain
    must EINVAL, nmi_op, XENNMI_register_callback, 0
    must ENOSYS, callback_op, 99, 0
    must ENOSYS, event_channel_op, 99, 0
    must EINVAL, physdev_op, 99, 0
    .long 0

privileged:
    must EPERM, platform_op
    must EPERM, sysctl
    must EPERM, domctl
    must EPERM, physdev_op, PHYSDEVOP_apic_read, 0
    must EPERM, update_va_mapping_otherdomain, readonly, 0, 0, 0, 1
    must EPERM, set_debugreg, 0, XEN
    .long 0

unknown:
    .long -ENOSYS, 11, 0, 0, 0, 0, 0             ; never given a meaning
    .long -ENOSYS, 25, 0, 0, 0, 0, 0             ; set_segment_base, of 64-bit guests
    .long -ENOSYS, 27, 0, 0, 0, 0, 0             ; acm_op: not built in
    .long -ENOSYS, 47, 0, 0, 0, 0, 0
    .long -ENOSYS, 63, 0, 0, 0, 0, 0             ; the last slot of the table
    .long -ENOSYS, 64, 0, 0, 0, 0, 0             ; behind it: 3.0.0 took the number modulo 32
    .long -ENOSYS, 0x80000000, 0, 0, 0, 0, 0
    .long -ENOSYS, 0xFFFFFFFF, 0, 0, 0, 0, 0
    .long 0

page readonly
