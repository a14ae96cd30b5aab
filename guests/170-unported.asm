; ---
; title = "Nobody ported it: the same instructions with correct virtual results"
; modes = ["pv"]
;
; [run]
; policy = "full"
;
; [expect]
; console = """
; cli, sti, pushf, popf: IF moves
; lgdt, lidt, lldt: what is loaded is read back
; cr0, cr4, smsw, lmsw, clts: one register
; cs and ss: ring 0
; iret: IF too
; a fault, a system call and IRET: IF 0 and IOPL 3 come back
; in: ring 0 needs no permission
; sti; hlt: the event comes behind the instruction after STI
; """
; exits = { gp = 26, sensitive = 28, bp = 1, gate = 1 }
; ---
; What would it take to run a kernel that believes itself in ring 0? Each instruction of the lists so far would need
; its correct result: what faults, by emulation; what is silent, by replacing it before it runs (as VMware's
; translator did in 1999) or by a CPU that can be told to trap it (VT-x and AMD-V, from 2005 on). This laboratory's
; policy "full" shows the result: all of them work on virtual registers, and nothing of Xen can be seen. Only the
; events still come Xen's way, by a callback, and printing by a hypercall.

.include "xen.inc"

; flag_if VALUE: what PUSHF shows.
.macro flag_if value
    pushf
    pop eax
    and eax, EFLAGS_IF
    expect_eq eax, \value * EFLAGS_IF
.endm

start:
    map_shared_info
    set_callbacks on_event, on_event
    hypercall set_trap_table, traps
    bind_virq VIRQ_TIMER
    mov [port], eax

    ; The boot state is IF = 0. A critical section as in any kernel.
    flag_if 0
    sti
    flag_if 1
    pushf
    cli
    flag_if 0
    popf
    flag_if 1
    cli
    print_text "cli, sti, pushf, popf: IF moves\n"

    lgdt [my_gdtr]
    sgdt [seen]
    mov eax, [seen]
    expect_eq eax, dword ptr [my_gdtr]
    mov ax, [seen + 4]
    mov bx, [my_gdtr + 4]
    cmp ax, bx
    jne wrong
    lidt [my_gdtr]
    sidt [seen]
    mov eax, [seen]
    expect_eq eax, dword ptr [my_gdtr]
    mov ax, 0
    lldt ax
    sldt eax
    expect_eq eax, 0
    print_text "lgdt, lidt, lldt: what is loaded is read back\n"

    mov ebx, cr0
    smsw eax
    expect_eq eax, ebx
    or eax, CR0_TS
    lmsw ax
    smsw ecx
    expect_eq ecx, eax
    clts
    mov ecx, cr0
    expect_eq ecx, ebx
    or ecx, CR0_EM
    mov cr0, ecx
    smsw eax
    expect_eq eax, ecx
    mov cr0, ebx
    mov eax, cr4
    or eax, CR4_TSD
    mov cr4, eax
    mov ecx, cr4
    expect_eq ecx, eax
    invlpg [start]
    invd
    wbinvd
    mov ecx, MSR_SYSENTER_CS
    mov eax, 0x10
    mov edx, 0
    wrmsr
    mov eax, 0
    rdmsr
    expect_eq eax, 0x10
    print_text "cr0, cr4, smsw, lmsw, clts: one register\n"

    ; Selectors show ring 0, and may be loaded and returned to as such.
    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS - 1
    mov eax, ss
    expect_eq eax, FLAT_KERNEL_SS - 1
    mov ss, eax
    mov ecx, FLAT_KERNEL_DS
    lsl eax, ecx
    expect_eq eax, 0xFFFFFFFF
    print_text "cs and ss: ring 0\n"

    pushf
    or dword ptr [esp], EFLAGS_IF
    push cs
    push offset returned
    iretd
returned:
    flag_if 1
    cli
    print_text "iret: IF too\n"

    ; Xen's bounce frame, and the one of the direct gate of vector 80h, hold the flags as the kernel believes them.
    pushf
    or dword ptr [esp], EFLAGS_IOPL
    popf
    int3
    int 0x80
    pushf
    pop eax
    and eax, EFLAGS_IF | EFLAGS_IOPL
    expect_eq eax, EFLAGS_IOPL
    push EFLAGS_FIXED
    popf
    print_text "a fault, a system call and IRET: IF 0 and IOPL 3 come back\n"

    mov eax, 0
    in al, 0x80
    expect_eq eax, 0xFF
    print_text "in: ring 0 needs no permission\n"

    ; A timer in the past fires at once; masked, it stays pending. STI lets one instruction more through before the
    ; event comes (SDM 2, STI), so that `sti; hlt` cannot sleep through it: here first with an INC, then with the HLT.
    hypercall set_timer_op, 1, 0
    mov ebx, 0
    sti
    inc ebx
    expect_eq dword ptr [events], 1
    expect_eq dword ptr [ebx_then], 1
    cli
    hypercall set_timer_op, 1, 0
    sti
    hlt
    expect_eq dword ptr [events], 2
    print_text "sti; hlt: the event comes behind the instruction after STI\n"
    shutdown poweroff
wrong:
    fail "SGDT does not show what LGDT loaded"

on_trap:
    iretd

; The flags on the stack have IF set, and IRET loads it.
on_event:
    mov [ebx_then], ebx
    push eax
    begin_upcall
    take_port [port]
    inc dword ptr [events]
    pop eax
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_BP, 0, on_trap
    trap 0x80, 3, on_trap
trap_table_end
events: .long 0
port: .long 0
ebx_then: .long 0
seen: .long 0, 0
my_gdtr:
    .word 0x17
    .long 0x12345678
page shared_info
