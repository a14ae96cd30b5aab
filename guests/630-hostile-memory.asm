; ---
; title = "A hostile kernel reaches for the hypervisor's memory"
; modes = ["pv"]
;
; [expect]
; console = """
; By address: read, written, executed, nothing of it.
; By segment: a base below Xen and an offset into it.
; By forged entries: none of 64 low frames but the one that is shared.
; By stale translations: a page table in the making is not writable.
; By the hypervisor's own hand: INS, hypercalls and LDT.
; """
;
; [expect.exits]
; nested = 0
; engine = 0
; ---
; Ring 1 is supervisor to the paging hardware, and Xen's pages are supervisor pages in the same address space. What
; keeps them apart on 32-bit x86 is segmentation: every segment that a guest can load ends at 0xFC400000, and beyond
; there is a #GP before any page is looked at (asm-x86/config.h; public/arch-x86_32.h). Only the machine-to-physical
; table lies below that end, from 0xFC000000 on, for guests to read.
;
; Each line below is an attempt, with the fault or the error that it must get.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

END = GUEST_SEGMENT_MAX
HIGH = 2 << 3 | 1                                ; a segment whose base is just below that end

start:
    try_begin
    memory_begin
    mov [info], esi
    remap gdt, PAGE_READONLY
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_eq eax, 0

    mov eax, [MACH2PHYS_VIRT_START]              ; the table may be read
    page_faults MACH2PHYS_VIRT_START, PFEC_P | PFEC_W, mov dword ptr [MACH2PHYS_VIRT_START], eax
    page_faults MACH2PHYS_VIRT_START + 8, PFEC_P | PFEC_W, lock inc dword ptr [MACH2PHYS_VIRT_START + 8]
    raises VECTOR_GP, 0, mov eax, [END]
    raises VECTOR_GP, 0, mov [END], eax
    raises VECTOR_GP, 0, mov eax, [0xFF000000]
    raises VECTOR_GP, 0, mov eax, [0xFFFFFFF0]
    raises VECTOR_GP, 0, mov [GDT_VIRT_START], eax
    raises VECTOR_GP, 0, mov [GDT_VIRT_START + FIRST_RESERVED_GDT_PAGE * PAGE_SIZE + 8], eax
    raises VECTOR_GP, 0, mov [PERDOMAIN_VIRT_START + 1023 * PAGE_SIZE + 4], eax
    mov edi, END
    mov esi, start
    raises VECTOR_GP, 0, movsd
    mov esi, END
    mov edi, start
    raises VECTOR_GP, 0, movsd
    mov eax, END
    raises VECTOR_GP, 0, jmp eax
    mov eax, 0xFF000000
    raises VECTOR_GP, 0, jmp eax
    print_text "By address: read, written, executed, nothing of it.\n"

    mov eax, HIGH
    mov fs, eax
    lsl eax, eax
    expect_eq eax, END - 0xFC300000 - 1          ; 4 GiB were asked for
    raises VECTOR_GP, 0, mov eax, fs:[END - 0xFC300000]
    raises VECTOR_GP, 0, mov fs:[END - 0xFC300000], eax
    print_text "By segment: a base below Xen and an offset into it.\n"

    mov ebp, 0
next_frame:
    mov eax, [info]
    mov eax, [eax + START_INFO_SHARED_INFO]
    shr eax, PAGE_SHIFT
    cmp eax, ebp
    je ours
    mov eax, ebp
    shl eax, PAGE_SHIFT
    or eax, PAGE_READONLY
    map target, eax
    expect_error EINVAL
    directory_entry 0x40000000
    mov edx, ebp
    shl edx, PAGE_SHIFT
    or edx, PAGE_TABLE
    update_entry eax, edx
    expect_error EINVAL
ours:
    inc ebp
    cmp ebp, 64
    jb next_frame
    print_text "By forged entries: none of 64 low frames but the one that is shared.\n"

    ; The CPU has a writable translation of `target`; the entry is made read-only without a flush; then the page
    ; becomes a page table. If the old translation survived that, the next store would map any frame of the machine.
    mov dword ptr [target], 0
    page_entry target, PAGE_READONLY
    mov edx, eax
    table_entry target
    update_entry eax, edx
    expect_eq eax, 0
    machine_frame target
    mov dword ptr [operation], MMUEXT_PIN_L1_TABLE
    mov [operation + MMUEXT_OP_ARG1], eax
    hypercall mmuext_op, operation, 1, 0, DOMID_SELF
    expect_eq eax, 0
    page_faults target, PFEC_P | PFEC_W, mov dword ptr [target], PAGE_KERNEL
    print_text "By stale translations: a page table in the making is not writable.\n"

    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    pop eax
    mov edx, 0x80
    mov edi, HYPERVISOR_VIRT_START
    page_faults HYPERVISOR_VIRT_START, PFEC_W, insb
    mov edi, END
    page_faults END, PFEC_W, insd
    hypercall console_io, CONSOLEIO_write, 16, END
    expect_error EFAULT
    hypercall xen_version, XENVER_changeset, GDT_VIRT_START
    expect_error EFAULT
    mov dword ptr [operation], MMUEXT_SET_LDT
    mov dword ptr [operation + MMUEXT_OP_ARG1], GDT_VIRT_START
    mov dword ptr [operation + MMUEXT_OP_ARG2], 16
    hypercall mmuext_op, operation, 1, 0, DOMID_SELF
    expect_error EINVAL
    print_text "By the hypervisor's own hand: INS, hypercalls and LDT.\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
info: .long 0
frames: .long 0
operation: .long 0, 0, 0

page shared_info
page target

.align PAGE_SIZE
gdt:
    .space 16
    .long 0x0000FFFF, 0xFCCFB230                 ; base 0xFC300000, DPL 1, data: Xen cuts the limit of 4 GiB
    .space PAGE_SIZE - 24
