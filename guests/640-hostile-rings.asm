; ---
; title = "A hostile kernel reaches for ring 0"
; modes = ["pv"]
;
; [expect]
; console = """
; Far jumps, calls and returns to Xen's code segment: #GP of its selector.
; Segments of ring 0, a TSS, selectors of nothing: #GP of theirs.
; IRET as a task switch: #TS, for the link leads nowhere.
; The registers that make the rules: #GP(0), or nothing happens.
; Another virtualization on top: #UD.
; Still in ring 1, with events on and no I/O: CS 0000e019
; """
;
; [expect.exits]
; nested = 0
; engine = 0
; ---
; The CPU checks every way from ring 1 to ring 0; that is what rings are for (SDM 3, section 5.8). A far transfer
; needs a descriptor of the right DPL or a gate, and Xen admits neither into GDT or LDT (390-bad-descriptors.asm). A
; return cannot go inwards. What would change the rules is privileged. This guest tries each, with the fault that it
; must get.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

start:
    try_begin
    memory_begin
    remap gdt, PAGE_READONLY
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_eq eax, 0

    mov [stack_at_start], esp
    raises VECTOR_GP, HYPERVISOR_CS, ljmp HYPERVISOR_CS:start
    raises VECTOR_GP, HYPERVISOR_CS, lcall HYPERVISOR_CS:start
    raises VECTOR_GP, HYPERVISOR_CS, ljmp HYPERVISOR_CS + 1:start
    raises VECTOR_GP, HYPERVISOR_CS, call far_return
    raises VECTOR_GP, HYPERVISOR_CS, call far_return_1
    raises VECTOR_GP, HYPERVISOR_CS, call return_from_interrupt
    mov esp, [stack_at_start]
    print_text "Far jumps, calls and returns to Xen's code segment: #GP of its selector.\n"

    mov eax, HYPERVISOR_DS
    raises VECTOR_GP, HYPERVISOR_DS, mov ds, eax
    raises VECTOR_GP, HYPERVISOR_DS, mov ss, eax
    raises VECTOR_GP, HYPERVISOR_DS, lss esp, [stack_of_ring_0]
    raises VECTOR_GP, TSS_SELECTOR, ljmp TSS_SELECTOR:0
    raises VECTOR_GP, TSS_SELECTOR, lcall TSS_SELECTOR:0
    raises VECTOR_GP, 8, ljmp 9:start            ; an entry of our own that is empty
    raises VECTOR_GP, 0, ljmp 0:start
    print_text "Segments of ring 0, a TSS, selectors of nothing: #GP of theirs.\n"

    ; With NT set IRET returns to the task that the TSS links to. Xen's TSS links to selector 0, which is no TSS.
    pushfd
    or dword ptr [esp], EFLAGS_NT
    popfd
    raises VECTOR_TS, 0, iretd
    pushfd
    and dword ptr [esp], 0xFFFFFFFF - EFLAGS_NT
    popfd
    print_text "IRET as a task switch: #TS, for the link leads nowhere.\n"

    raises VECTOR_GP, 0, lgdt [pseudo]
    raises VECTOR_GP, 0, lidt [pseudo]
    mov eax, TSS_SELECTOR
    raises VECTOR_GP, 0, ltr ax
    raises VECTOR_GP, 0, lldt ax
    mov eax, 0
    raises VECTOR_GP, 0, lmsw ax
    raises VECTOR_GP, 0, mov cr0, eax            ; no protection, no paging
    mov eax, 1 << PAGE_SHIFT
    raises VECTOR_GP, 0, mov cr3, eax            ; Xen's memory as page directory
    mov eax, 0xFFFFFFFF
    raises VECTOR_GP, 0, mov cr4, eax
    raises VECTOR_GP, 0, sysexit
    mov ecx, 0xC0000080                          ; EFER: Xen emulates WRMSR by doing nothing
    mov eax, 0xFFFFFFFF
    mov edx, 0
    wrmsr
    mov ecx, MSR_SYSENTER_CS
    wrmsr
    raises VECTOR_GP, 0, sysenter
    push 0x3002 | EFLAGS_IF                      ; IOPL 3: POPF at ring 1 drops it
    popfd
    raises VECTOR_GP, 0, in al, 0x21
    print_text "The registers that make the rules: #GP(0), or nothing happens.\n"

    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xD8  ; VMRUN
    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xD9  ; VMMCALL
    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xDA  ; VMLOAD
    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xDD  ; CLGI
    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xC1  ; VMCALL
    raises VECTOR_UD, 0, .byte 0x0F, 0x01, 0xC2  ; VMLAUNCH
    raises VECTOR_UD, 0, .byte 0x0F, 0xAA        ; RSM
    raises VECTOR_UD, 0, .byte 0x0F, 0x05        ; SYSCALL
    raises VECTOR_UD, 0, .byte 0xF0, 0xFA        ; LOCK CLI
    print_text "Another virtualization on top: #UD.\n"

    pushfd
    pop ebx
    and ebx, EFLAGS_IF | EFLAGS_IOPL
    expect_eq ebx, EFLAGS_IF
    mov eax, cs
    print_text "Still in ring 1, with events on and no I/O: CS "
    print_hex eax
    print_text "\n"
    shutdown poweroff

; What these leave on the stack is dropped by the caller.
far_return:
    push HYPERVISOR_CS
    push start
    retf
far_return_1:
    push HYPERVISOR_CS | 1
    push start
    retf
return_from_interrupt:
    push EFLAGS_FIXED
    push HYPERVISOR_CS
    push start
    iretd

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
frames: .long 0
stack_at_start: .long 0
stack_of_ring_0: .long 0
    .word HYPERVISOR_DS
pseudo: .word 0xFFFF
    .long gdt

page shared_info
page gdt
