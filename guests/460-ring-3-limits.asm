; ---
; title = "What ring 3 may not do: privileged instructions, hypercalls, the kernel's pages and segments"
; modes = ["pv"]
;
; [expect]
; console = """
; All of it came to the kernel as faults; nothing was emulated, nothing was done.
; """
;
; [expect.exits]
; gp = 26
; pf = 3
; # the way home
; gate = 1
;
; [expect.hypercalls]
; sched_op = 1
; ---
; Xen emulates privileged instructions for a guest's kernel only: for ring 3 each is bounced as #GP(0), as bare
; hardware would do it, but for CLI, STI and port I/O, which depend on the virtual IOPL and the I/O bitmap
; (arch/x86/traps.c, emulate_privileged_op). A hypercall is refused by the CPU itself: gate 0x82 has DPL 1, so INT
; raises #GP(0x412). To the kernel that is a fault of the application like any other.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

start:
    try_begin
    hypercall set_trap_table, way_home           ; adds to the table
    memory_begin
    kernel_stack kernel_top
    open_to_user user_begin, user_end
    enter_user user, user_top

.align PAGE_SIZE
user_begin:
user:
    raises VECTOR_GP, 0, cli
    raises VECTOR_GP, 0, sti
    raises VECTOR_GP, 0, hlt
    raises VECTOR_GP, 0, clts
    raises VECTOR_GP, 0, wbinvd
    raises VECTOR_GP, 0, invlpg [user]
    raises VECTOR_GP, 0, lgdt [user]
    raises VECTOR_GP, 0, lidt [user]
    raises VECTOR_GP, 0, ltr ax
    raises VECTOR_GP, 0, lmsw ax
    raises VECTOR_GP, 0, mov eax, cr0
    raises VECTOR_GP, 0, mov cr0, eax
    raises VECTOR_GP, 0, mov cr3, eax
    raises VECTOR_GP, 0, mov eax, dr7
    raises VECTOR_GP, 0, rdmsr
    raises VECTOR_GP, 0, wrmsr
    raises VECTOR_GP, 0, in al, 0x60
    raises VECTOR_GP, 0, out 0x80, al

    ; Gates: of DPL 1 (Xen's), of DPL 0 (no handler that admits ring 3).
    mov eax, __HYPERVISOR_sched_op_compat
    mov ebx, SCHEDOP_shutdown
    mov ecx, SHUTDOWN_crash
    raises VECTOR_GP, 0x82 * 8 + ERROR_IDT, int 0x82
    raises VECTOR_GP, 0x21 * 8 + ERROR_IDT, int 0x21
    raises VECTOR_GP, VECTOR_GP * 8 + ERROR_IDT, int VECTOR_GP

    ; Pages of the kernel: present, and ring 3 (bit 2 of the error code).
    page_faults kernel_page, PFEC_P | PFEC_U, mov eax, [kernel_page]
    page_faults kernel_page + 4, PFEC_P | PFEC_U | PFEC_W, mov [kernel_page + 4], eax
    mov ebx, kernel_page
    page_faults kernel_page, PFEC_P | PFEC_U, call ebx
    add esp, 4                                   ; what CALL had pushed

    ; Segments of ring 1 and of Xen.
    mov eax, FLAT_KERNEL_DS
    raises VECTOR_GP, FLAT_KERNEL_DS & 0xFFFC, mov es, eax
    raises VECTOR_GP, FLAT_KERNEL_DS & 0xFFFC, mov ss, eax
    mov eax, HYPERVISOR_DS
    raises VECTOR_GP, HYPERVISOR_DS, mov es, eax
    raises VECTOR_GP, FLAT_KERNEL_CS & 0xFFFC, ljmp FLAT_KERNEL_CS:user
    raises VECTOR_GP, HYPERVISOR_CS, lcall HYPERVISOR_CS:user
    int 0x80

.include "xen_routines.inc"
try_routines
.align PAGE_SIZE
.space PAGE_SIZE
user_top:
user_end:

home:
    print_text "All of it came to the kernel as faults; nothing was emulated, nothing was done.\n"
    shutdown poweroff

trap_table_begin way_home
trap 0x80, 3, home
trap_table_end

memory_routines
stack kernel_top

page shared_info
page kernel_page
