; ---
; title = "A GDT of one's own: set_gdt and update_descriptor"
; modes = ["pv"]
;
; [expect]
; console = """
; A page that is mapped writable cannot hold descriptors.
; FS through a descriptor of our own reads: island
; A far jump loads our own code segment: CS 00000019
; A store into the GDT is a page fault: error 00000003
; After update_descriptor the same selector leads elsewhere: inland
; Behind our entries are Xen's, and nothing between: #GP(00001000)
; """
;
; [expect.hypercalls]
; set_gdt = 3
; update_descriptor = 3
;
; [expect.exits]
; pf = 2
; gp = 0
; ---
; The GDT of a guest is mapped by Xen at an address of its own: pages 0 to 13 are the guest's, page 14 is Xen's and
; holds the flat segments 0xE019 and the rest (asm-x86/desc.h). The guest names the frames of its pages by set_gdt;
; Xen checks every descriptor in them, gives the frames the type "GDT", and from then on nobody can map them
; writable. update_descriptor changes one, by machine address, with the same check.
;
; Xen reloads DS, ES, FS and GS on every way back to the guest (x86_32/entry.S, restore_all_guest), so a changed
; descriptor takes effect without a load by the guest itself.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

ISLAND = 2 << 3 | 1                              ; entry 2, RPL 1: data
OWN_CODE = 3 << 3 | 1                            ; entry 3, RPL 1: code
BEYOND = 512 << 3 | 1                            ; entry 512: the second page, which we do not have

start:
    try_begin
    memory_begin
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_error EINVAL
    print_text "A page that is mapped writable cannot hold descriptors.\n"

    ; Descriptors with a base are built by the guest: base 23:0 at bits 39:16, base 31:24 at 63:56.
    mov eax, island
    mov word ptr [gdt + 8 * 2 + 2], ax
    shr eax, 16
    mov byte ptr [gdt + 8 * 2 + 4], al
    remap gdt, PAGE_READONLY
    hypercall set_gdt, frames, 512
    expect_eq eax, 0

    mov eax, ISLAND
    mov fs, eax
    print_text "FS through a descriptor of our own reads: "
    call print_fs
    ljmp OWN_CODE:in_own_code
in_own_code:
    mov eax, cs
    push eax
    print_text "A far jump loads our own code segment: CS "
    call routine_print_hex
    print_text "\n"
    ljmp FLAT_KERNEL_CS:back
back:
    raises VECTOR_PF, 3, mov dword ptr [gdt + 8 * 2], 0
    print_text "A store into the GDT is a page fault: error "
    print_hex dword ptr [try_error]
    print_text "\n"

    machine_frame gdt
    shl eax, PAGE_SHIFT
    add eax, 8 * 2
    mov ebp, eax
    mov edx, [gdt + 8 * 2]
    add edx, (inland - island) << 16             ; both lie in the same 64 KiB
    mov esi, [gdt + 8 * 2 + 4]
    hypercall update_descriptor, ebp, 0
    expect_eq eax, 0
    print_text "After update_descriptor the same selector leads elsewhere: "
    call print_fs

    ; The CPU's own fault is a page fault at an address that the guest knows nothing of: Xen makes it #GP(selector).
    raises VECTOR_GP, BEYOND & 0xFFFC, call load_beyond
    add esp, 4                                   ; what CALL had pushed
    print_text "Behind our entries are Xen's, and nothing between: #GP("
    print_hex dword ptr [try_error]
    print_text ")\n"

    hypercall set_gdt, frames, FIRST_RESERVED_GDT_ENTRY + 1
    expect_error EINVAL
    add ebp, 1
    hypercall update_descriptor, ebp, 0, 0, 0    ; not a multiple of 8
    expect_error EINVAL
    hypercall update_descriptor, 1 << PAGE_SHIFT, 0, 0, 0
    expect_error EINVAL                          ; not our frame: Xen's page of the GDT
    shutdown poweroff

load_beyond:
    mov eax, BEYOND
    mov gs, eax
    ret

; Print eight bytes at FS:0. Copied first: a hypercall takes linear addresses, whatever the segments say.
print_fs:
    mov eax, fs:[0]
    mov [copied], eax
    mov eax, fs:[4]
    mov [copied + 4], eax
    hypercall console_io, CONSOLEIO_write, 7, copied
    ret

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
frames: .long 0
copied: .space 8
.align 16
island: .ascii "island\n "
inland: .ascii "inland\n "

page shared_info

.align PAGE_SIZE
gdt:
    .long 0, 0, 0, 0
    .long 0x00000007, 0x0040B200                 ; limit 7, DPL 1, data, writable; base is filled in
    .long 0x0000FFFF, 0x00CFBA00                 ; flat, DPL 1, code: Xen will cut the limit below itself
    .space PAGE_SIZE - 4 * 8
