; ---
; title = "Page faults: bounced to the kernel with CR2 and error code, mended by it, retried"
; modes = ["pv"]
;
; [expect]
; console = """
; write to an absent page: error 00000002 at offset 00000120
; write to a read-only page: error 00000003 at offset 00000120
; read from an absent page: error 00000000 at offset 00000120
; fetch from an absent page: error 00000000 at offset 00000ff0
; The same four instructions then went through.
; """
;
; [expect.exits]
; pf = 4
;
; [expect.hypercalls]
; set_trap_table = 1
; update_va_mapping = 9
; ---
;
; A page fault of a guest goes to the hypervisor first, because the CPU's IDT is the hypervisor's. Xen keeps those
; that are its own affair and bounces the rest to the kernel's handler (x86_32/entry.S, create_bounce_frame): error
; code, EIP, CS and EFLAGS are pushed as the CPU would. Only CR2 is elsewhere: ring 1 cannot read the register
; without a trap, so Xen leaves the address in vcpu_info of the shared page.
;
; The error code (SDM 3, section 4.7): bit 0 the page is present, bit 1 it was a write, bit 2 it came from ring 3.
; Ring 1 counts as supervisor, so a kernel sees bit 2 clear for its own faults, just as it would in ring 0.

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    map_shared_info
    hypercall set_trap_table, traps
    mov byte ptr [target + 0xFF0], 0xC3          ; a RET, to be called below
    mov dword ptr [target + 0x120], 0x1234

    map target, 0                                ; the page is gone: nothing is mapped there
    mov dword ptr [why], to_write
    mov dword ptr [why_length], length_of_to_write
    mov dword ptr [target + 0x120], 0xCAFE       ; faults, is mended, is retried

    remap target, PAGE_READONLY
    mov dword ptr [why], to_protect
    mov dword ptr [why_length], length_of_to_protect
    mov dword ptr [target + 0x120], 0xF00D
    expect_eq dword ptr [faults], 2

    map target, 0
    mov dword ptr [why], to_read
    mov dword ptr [why_length], length_of_to_read
    mov eax, [target + 0x120]
    expect_eq eax, 0xF00D                        ; the frame kept what it held while it was not mapped

    map target, 0
    mov dword ptr [why], to_fetch
    mov dword ptr [why_length], length_of_to_fetch
    mov eax, target + 0xFF0
    call eax
    expect_eq dword ptr [faults], 4

    print_text "The same four instructions then went through.\n"
    shutdown poweroff

; The handler. Stack: error code, EIP, CS | saved upcall mask << 16, EFLAGS. Returning with IRET tries EIP again.
page_fault:
    pushad
    inc dword ptr [faults]
    hypercall console_io, CONSOLEIO_write, [why_length], [why]
    print_hex dword ptr [esp + 32]
    mov eax, [shared_info + VCPU_INFO_CR2]
    sub eax, target
    print_text " at offset "
    print_hex eax
    print_text "\n"
    remap target, PAGE_KERNEL
    expect_eq eax, 0
    popad
    add esp, 4                                   ; IRET does not know of the error code
    iretd

trap_table_begin traps
trap VECTOR_PF, 0, page_fault
trap_table_end

message to_write, "write to an absent page: error "
message to_protect, "write to a read-only page: error "
message to_read, "read from an absent page: error "
message to_fetch, "fetch from an absent page: error "

.align 4
why: .long 0
why_length: .long 0
faults: .long 0

.include "xen_routines.inc"
memory_routines

page shared_info
page target
