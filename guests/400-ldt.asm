; ---
; title = "An LDT: its pages are mapped when they are first used"
; modes = ["pv"]
;
; [expect]
; console = """
; SLDT shows Xen's selector for it: 0000e048
; The first load of a selector reads: locals
; It took one page fault that the kernel did not see; the second load took none.
; A page with a bad descriptor: page fault at its own address, error 00000000
; Past the end: #GP(00002004)
; Without an LDT every selector of it is a #GP.
; """
;
; [expect.hypercalls]
; mmuext_op = 5
;
; [expect.exits]
; # the page that Xen maps, and the one that it will not
; pf = 2
; ---
; MMUEXT_SET_LDT takes a linear address and a number of entries, and does next to nothing: the LDTR gets an area of
; Xen's in which no page is mapped. When the CPU reads a descriptor there, it faults; Xen looks up the guest's page,
; checks all of its descriptors, gives it the type "LDT", maps it, and lets the instruction go on (arch/x86/traps.c,
; fixup_page_fault; arch/x86/mm.c, map_ldt_shadow_page). If the page will not do, the kernel gets a page fault at
; the address of its own LDT.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

ENTRIES = 1024                                   ; two pages
GOOD = 1 << 3 | SELECTOR_TI | 1                  ; entry 1, RPL 1
BAD_PAGE = 512 << 3 | SELECTOR_TI | 1            ; first entry of the second page
PAST_END = ENTRIES << 3 | SELECTOR_TI | 1

.macro set_ldt base, entries
    mov dword ptr [operation + MMUEXT_OP_ARG1], \base
    mov dword ptr [operation + MMUEXT_OP_ARG2], \entries
    hypercall mmuext_op, operation, 1, 0, DOMID_SELF
.endm

start:
    try_begin
    memory_begin
    mov eax, locals
    mov word ptr [ldt + 8 + 2], ax
    shr eax, 16
    mov byte ptr [ldt + 8 + 4], al
    remap ldt, PAGE_READONLY
    remap ldt + PAGE_SIZE, PAGE_READONLY

    set_ldt ldt + 8, ENTRIES
    expect_error EINVAL                          ; not on a page boundary
    set_ldt ldt, MAX_LDT_ENTRIES + 1
    expect_error EINVAL
    sldt eax
    expect_eq eax, 0
    set_ldt ldt, ENTRIES
    expect_eq eax, 0
    sldt eax
    print_text "SLDT shows Xen's selector for it: "
    print_hex eax
    print_text "\n"

    mov eax, GOOD
    mov fs, eax
    mov eax, fs:[0]
    mov [copied], eax
    mov eax, fs:[4]
    mov [copied + 4], eax
    print_text "The first load of a selector reads: "
    hypercall console_io, CONSOLEIO_write, 7, copied
    mov eax, GOOD
    mov gs, eax
    print_text "It took one page fault that the kernel did not see; the second load took none.\n"

    remap ldt, PAGE_KERNEL                       ; the page is in use as an LDT
    expect_error EINVAL

    mov eax, BAD_PAGE
    page_faults ldt + PAGE_SIZE, 0, mov gs, eax
    print_text "A page with a bad descriptor: page fault at its own address, error "
    print_hex dword ptr [try_error]
    print_text "\n"

    mov eax, PAST_END
    raises VECTOR_GP, PAST_END & 0xFFFC, mov gs, eax
    print_text "Past the end: #GP("
    print_hex dword ptr [try_error]
    print_text ")\n"

    ; FS and GS must not hold a selector of the LDT when it goes: 410-failsafe.asm shows why.
    mov eax, 0
    mov fs, eax
    mov gs, eax
    set_ldt 0, 0
    expect_eq eax, 0
    mov eax, GOOD
    raises VECTOR_GP, GOOD & 0xFFFC, mov fs, eax
    print_text "Without an LDT every selector of it is a #GP.\n"
    remap ldt, PAGE_KERNEL                       ; and its pages are ordinary again
    expect_eq eax, 0
    set_ldt ldt, 16
    expect_eq eax, 0
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
operation: .long MMUEXT_SET_LDT, 0, 0
copied: .space 8
.align 16
locals: .ascii "locals\n "

page shared_info

.align PAGE_SIZE
ldt:
    .long 0, 0
    .long 0x00000007, 0x0040B200                 ; limit 7, DPL 1, data; base is filled in
    .space PAGE_SIZE - 16
    .long 0x0000FFFF, 0x00CF9200                 ; second page: a descriptor of DPL 0
    .space PAGE_SIZE - 8
