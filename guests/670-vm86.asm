; ---
; title = "IRET with the VM flag: where this laboratory is not silicon, and what it does about it"
; modes = ["pv"]
;
; [expect]
; console = "POPF leaves the flag alone.\n"
; crash = "VM86"
;
; [expect.exits]
; nested = 0
; ---
; The VM flag of EFLAGS turns a task into a virtual 8086. Only ring 0 may set it: at CPL > 0 IRET ignores the bit of
; its image (SDM 2, IRET), and POPF never touches it. The CPU of this laboratory does not ignore it: Unicorn 2.1.4
; enters virtual-8086 mode from ring 1. The hypervisor sees it at the next exit and ends the domain, so that nothing
; can be built on it. On silicon the line behind the IRET would run.

.include "xen.inc"

start:
    pushfd
    or dword ptr [esp], EFLAGS_VM
    popfd
    pushfd
    pop ebx
    and ebx, EFLAGS_VM
    expect_eq ebx, 0
    print_text "POPF leaves the flag alone.\n"
    push 0                                       ; GS, FS, DS, ES, SS, ESP of a VM86 frame, for the CPU that takes them
    push 0
    push 0
    push 0
    push 0
    push 0x1000
    push EFLAGS_FIXED | EFLAGS_VM
    push FLAT_KERNEL_CS
    push behind
    iretd
behind:
    print_text "This is silicon.\n"
    shutdown poweroff

.include "xen_routines.inc"
