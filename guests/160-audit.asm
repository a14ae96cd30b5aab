; ---
; title = "Finding the silent ones: the same instructions under audit"
; modes = ["pv"]
;
; [run]
; audit = true
;
; [expect]
; console = "28 sensitive instructions ran, and nothing trapped\n"
; exits = { sensitive = 28, gp = 0, ud = 0 }
; ---
; Robin and Irvine listed in 2000 what stands between the Pentium and a virtual machine monitor: instructions that are
; sensitive and not privileged. This is the list, in their two classes, executed once each. An audit intercepts every
; one of them, lets the CPU do what it does, and reports once for each address: what was seen or lost, and what a
; paravirtualized kernel uses instead.
;
; HLT, CLI and STI, which articles like to name here, are not on the list: they trap. IRET was not on it either,
; though it drops IF as POPF does; it is counted here, INT n is not: it always ends in Xen.

.include "xen.inc"

start:
    mov ebp, esp

    ; Access to registers, memory or clocks that belong to the machine.
    sgdt [register]
    sidt [register]
    sldt eax
    smsw eax
    pushf
    popf

    ; References to the protection system.
    mov ecx, FLAT_KERNEL_DS
    lar eax, ecx
    lsl eax, ecx
    verr cx
    verw cx
    push ds
    pop ds
    push cs
    push ss
    lcall FLAT_KERNEL_CS, called            ; and a far RET back
    push FLAT_KERNEL_CS
    push offset behind_retf
    retf
behind_retf:
    ljmp FLAT_KERNEL_CS, behind_jmp
behind_jmp:
    str eax
    mov eax, cs
    mov ecx, ss
    mov es, ecx
    lds eax, [pointer]

    ; The loop executes POPF three times: one finding, for there is one address.
    mov ecx, 3
1:  push EFLAGS_FIXED | EFLAGS_IOPL
    dec ecx
    popf
    push eax
    pop eax
    test ecx, ecx
    jnz 1b

    push EFLAGS_FIXED
    push cs
    push offset behind_iret
    iretd
behind_iret:
    mov esp, ebp
    print_text "28 sensitive instructions ran, and nothing trapped\n"
    shutdown poweroff

called:
    retf

.include "xen_routines.inc"
register: .long 0, 0
pointer:
    .long 0
    .word FLAT_KERNEL_DS
