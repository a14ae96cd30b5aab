; ---
; title = "Descriptors that Xen refuses, and a call gate that it accepts"
; modes = ["pv"]
;
; [expect]
; console = """
; refused: data for ring 0
; refused: code for ring 0
; refused: a base inside Xen
; refused: bytes that reach into Xen
; refused: an interrupt gate
; refused: a task state segment
; refused: a local descriptor table
; refused: a call gate for ring 0
; refused: a call gate into ring 0
; refused: a call gate into Xen's own code segment
; refused: a call gate with a parameter count's reserved bits
; Pages that reach into Xen: cut, and the last byte is fc3fffff.
; Not present: taken as it is.
; A call gate from ring 3 to ring 1: taken, and the CPU goes through it alone.
; """
;
; [expect.exits]
; # what follows the visit to ring 3, which itself causes no exit
; ud = 1
; gate = 0
; gp = 0
;
; [expect.hypercalls]
; update_descriptor = 14
; ---
; With a descriptor of DPL 0 a kernel would be in ring 0 by one far jump, so check_descriptor is the wall
; (arch/x86/x86_32/mm.c): a present descriptor has DPL 1, 2 or 3; bases and limits stay below Xen, page-granular
; limits are cut, byte-granular ones refused; of the system types only the 32-bit call gate passes, if it leads to a
; selector that a guest may enter: the flat ring-1 code segment, or one of its own with RPL 1.
;
; The accepted gate works like on bare hardware: a far call from ring 3 takes SS1:ESP1 from the TSS, where
; stack_switch had put the kernel's stack, and no hypervisor is in the way.

.include "xen.inc"
.include "xen_memory.inc"
.include "xen_try.inc"

ENTRY = 5
ANY_RING1 = 0x00CFB200                           ; high dword: flat, present, DPL 1, S, writable data

; describe LOW, HIGH: update_descriptor for entry ENTRY of our GDT; EAX = result.
.macro describe low, high
    hypercall update_descriptor, ebp, 0, \low, \high
.endm

.macro refused low, high, what
    describe \low, \high
    expect_error EINVAL
    print_text "refused: "
    print_text \what
    print_text "\n"
.endm

start:
    try_begin
    memory_begin
    kernel_stack kernel_top
    remap gdt, PAGE_READONLY
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_eq eax, 0
    mov ebp, [frames]
    shl ebp, PAGE_SHIFT
    add ebp, 8 * ENTRY                           ; the descriptor's machine address

    refused 0x0000FFFF, 0x00CF9200, "data for ring 0"
    refused 0x0000FFFF, 0x00CF9A00, "code for ring 0"
    refused 0x00000000, 0xFC00B240, "a base inside Xen"
    refused 0x00000000, 0xFC01B23F, "bytes that reach into Xen"
    refused FLAT_KERNEL_CS << 16, 0x0000AE00, "an interrupt gate"
    refused 0x00000067, 0x0000A900, "a task state segment"
    refused 0x00000007, 0x0000A200, "a local descriptor table"
    refused FLAT_KERNEL_CS << 16, 0x00008C00, "a call gate for ring 0"
    refused HYPERVISOR_CS << 16, 0x0000EC00, "a call gate into ring 0"
    refused (HYPERVISOR_CS | 1) << 16, 0x0000EC00, "a call gate into Xen's own code segment"
    refused FLAT_KERNEL_CS << 16, 0x0000ECE0, "a call gate with a parameter count's reserved bits"

    ; 4 GiB in pages: the limit becomes that of the last page below 0xFC400000, as in the flat segments.
    describe 0x0000FFFF, ANY_RING1
    expect_eq eax, 0
    mov eax, [gdt + 8 * ENTRY + 4]
    and eax, 0xF0000
    mov cx, [gdt + 8 * ENTRY]
    movzx ecx, cx
    or eax, ecx
    expect_eq eax, (GUEST_SEGMENT_MAX >> PAGE_SHIFT) - 1
    print_text "Pages that reach into Xen: cut, and the last byte is fc3fffff.\n"

    describe 0xFFFFFFFF, 0x00CF1200              ; P = 0, DPL 0
    expect_eq eax, 0
    expect_eq dword ptr [gdt + 8 * ENTRY + 4], 0x00CF1200
    print_text "Not present: taken as it is.\n"

    mov ecx, through_gate
    and ecx, 0xFFFF
    mov edx, FLAT_KERNEL_CS << 16
    or edx, ecx
    mov esi, through_gate
    and esi, 0xFFFF0000
    or esi, 0xEC00                               ; present, DPL 3, 32-bit call gate, no parameters
    describe edx, esi
    expect_eq eax, 0
    open_to_user user_begin, user_end
    enter_user user, user_top

; Stack, as the CPU left it: EIP, CS, ESP, SS of ring 3.
through_gate:
    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS
    expect_eq dword ptr [esp + 4], FLAT_USER_CS
    expect_eq dword ptr [esp + 8], user_top
    expect_eq esp, kernel_top - 16
    raises VECTOR_UD, 0, ud2                     ; an exit to be seen in a trace: the first since ring 3 was entered
    print_text "A call gate from ring 3 to ring 1: taken, and the CPU goes through it alone.\n"
    shutdown poweroff

.include "xen_routines.inc"
try_routines
memory_routines
.align 4
frames: .long 0
stack kernel_top

page shared_info
page gdt

.align PAGE_SIZE
user_begin:
user:
    lcall 8 * ENTRY + 3:0
.align PAGE_SIZE
.space PAGE_SIZE
user_top:
user_end:
