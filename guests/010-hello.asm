; ---
; title = "Hello: one hypercall"
; modes = ["pv"]
;
; [expect]
; console = "Hello from ring 1.\n"
; exits = { hypercall = 2, gp = 0 }
; hypercalls = { console_io = 1, sched_op = 1 }
; ---
; A paravirtualized kernel has no screen and no serial port. It has INT 0x82: Xen's gate for ring 1, with the number of
; the call in EAX and up to five arguments in EBX, ECX, EDX, ESI, EDI (xen/include/public/arch-x86_32.h). The CPU leaves
; the guest, Xen looks the number up in its table, and the result comes back in EAX: negative values are errors.

.include "xen.inc"

start:
    mov eax, __HYPERVISOR_console_io
    mov ebx, CONSOLEIO_write
    mov ecx, length_of_greeting
    mov edx, greeting
    int HYPERCALL_VECTOR
    test eax, eax
    jnz refused

    ; The same by the macros that all other guests use. sched_op wants its argument behind a pointer.
    push SHUTDOWN_poweroff
    hypercall sched_op, SCHEDOP_shutdown, esp
refused:
    ud2                     ; no trap table: this would end the domain with a crash

    message greeting, "Hello from ring 1.\n"
