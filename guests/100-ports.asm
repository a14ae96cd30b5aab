; ---
; title = "Port I/O: three questions before a device is asked"
; modes = ["pv"]
;
; [expect]
; console = """
; no permission: #GP(0)
; IOPL 1: ff, ffff, ffffffff, and OUT goes nowhere
; bitmap: ports 80 to 83, and not one byte beyond
; port 61: the timer that a kernel measures its TSC by
; """
; exits = { gp = 14 }
; hypercalls = { physdev_op = 3 }
; ---
; IN and OUT are allowed when CPL <= IOPL, or when the I/O bitmap in the TSS says so (SDM 1 section 18.5). Under Xen
; the real IOPL is 0 and the real bitmap is beyond the TSS's limit: each access of ring 1 and ring 3 faults. Xen then
; asks three questions (arch/x86/traps.c, guest_io_okay and admin_io_okay):
;
;   1. Is the guest's virtual IOPL enough (PHYSDEVOP_SET_IOPL, any domain may)?
;   2. If not: are the bits of all the bytes clear in the guest's own bitmap (PHYSDEVOP_SET_IOBITMAP)?
;      Twice no is the guest's own doing: #GP(0).
;   3. Did the administrator give this domain the port? If not there is no fault: IN reads all ones, OUT does nothing,
;      as where no device is.
;
; Since 3.0.4 the speaker's timer (42h, 43h, 61h) is modelled for those that were not given it.

.include "xen.inc"

; refused INSTRUCTION: it must be #GP(0).
.macro refused instruction:vararg
    mov edi, offset .Lrefused_\@
    \instruction
    fail "allowed: \instruction"
.Lrefused_\@:
.endm

start:
    hypercall set_trap_table, traps

    mov edx, 0x80
    refused in al, dx
    refused in eax, 0x80
    refused out dx, al
    print_text "no permission: #GP(0)\n"

    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    expect_eq eax, 0
    pop eax
    ; As any write of AL and AX, IN leaves the rest of EAX alone.
    mov eax, 0
    mov edx, 0x80
    in al, dx
    expect_eq eax, 0xFF
    mov eax, 0
    in ax, dx
    expect_eq eax, 0xFFFF
    in eax, dx
    expect_eq eax, 0xFFFFFFFF
    out dx, al
    print_text "IOPL 1: ff, ffff, ffffffff, and OUT goes nowhere\n"

    ; Bit 0 is the gate of the speaker's timer, and reads back; no device would read ones.
    mov al, 1
    out 0x61, al
    mov eax, 0
    in al, 0x61
    and eax, 3
    expect_eq eax, 1

    ; Back to IOPL 0, with a bitmap in which only the bits of ports 80h to 83h are clear.
    push 0
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    pop eax
    mov edi, offset bitmap
    mov ecx, IOBITMAP_SIZE / 4
    mov eax, 0xFFFFFFFF
    cld
    rep stosd
    mov byte ptr [bitmap + 0x80 / 8], 0xF0
    push MAX_IO_PORTS
    push offset bitmap
    hypercall physdev_op, PHYSDEVOP_set_iobitmap, esp
    expect_eq eax, 0
    pop eax
    pop eax
    mov edx, 0x80
    in eax, dx
    expect_eq eax, 0xFFFFFFFF
    mov edx, 0x83
    in al, dx
    refused in ax, dx
    mov edx, 0x81
    refused in eax, dx
    mov edx, 0x7F
    refused in al, dx
    print_text "bitmap: ports 80 to 83, and not one byte beyond\n"
    print_text "port 61: the timer that a kernel measures its TSC by\n"
    shutdown poweroff

; EDI: where to go on.
on_gp:
    cmp dword ptr [esp], 0
    jne strange
    mov [esp + 4], edi
    add esp, 4
    iretd
strange:
    fail "not a #GP(0)"

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
.align PAGE_SIZE
bitmap: .space IOBITMAP_SIZE
