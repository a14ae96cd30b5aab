; ---
; title = "The failsafe callback: a segment that went bad behind the kernel's back"
; modes = ["pv"]
;
; [expect]
; console = """
; Failsafe callback: DS 0000e021 ES 0000e021 FS 00000000 GS 00000011
; The descriptor is mended, and the kernel goes on where it was.
; The same by the iret hypercall with a bad CS: failsafe.
; """
;
; [expect.hypercalls]
; update_descriptor = 2
; iret = 1
;
; [expect.exits]
; np = 0
; gp = 0
; ---
; On each way back to a guest Xen pops DS, ES, FS and GS and then executes IRET (x86_32/entry.S, restore_all_guest).
; Any of these can fault if the guest has changed the descriptor since, and the fault is Xen's own, in ring 0. It
; hands the problem to where it came from: the failsafe callback. Its frame is a bounce frame with DS, ES, FS and GS
; on top, and all four are null on entry. The handler mends what it can, reloads them, and returns to the
; interrupted place.

.include "xen.inc"
.include "xen_memory.inc"

OWN = 2 << 3 | 1

; describe LOW, HIGH: update_descriptor for entry 2 of our GDT.
.macro describe low, high
    hypercall update_descriptor, ebp, 0, \low, \high
.endm

start:
    memory_begin
    map_shared_info
    set_callbacks no_event, failsafe
    remap gdt, PAGE_READONLY
    machine_frame gdt
    mov [frames], eax
    hypercall set_gdt, frames, 512
    expect_eq eax, 0
    mov ebp, [frames]
    shl ebp, PAGE_SHIFT
    add ebp, OWN & 0xFFF8

    mov eax, OWN
    mov gs, eax
    mov ebx, 0
    mov fs, ebx
    describe 0x0000FFFF, 0x00CF3200              ; not present: GS cannot be popped on the way back from this call
behind_the_call:
    expect_eq dword ptr [calls], 1
    mov eax, gs
    and eax, 0xFFFF
    expect_eq eax, OWN
    print_text "The descriptor is mended, and the kernel goes on where it was.\n"

    ; IRET itself: a code selector that leads nowhere.
    mov dword ptr [where_to_go], behind_iret
    mov [stack_before], esp
    push EFLAGS_FIXED
    push 0x7F9                                   ; entry 255 of the GDT, RPL 1: empty
    push behind_iret
    iret_hypercall
behind_iret:
    mov esp, [stack_before]
    expect_eq dword ptr [calls], 2
    print_text "The same by the iret hypercall with a bad CS: failsafe.\n"
    shutdown poweroff

; Stack: DS, ES, FS, GS, EIP, CS | saved upcall mask << 16, EFLAGS. The segments are null: the stack and the code
; segment are all that works.
failsafe:
    push eax
    mov eax, ss
    mov ds, eax
    mov es, eax
    inc dword ptr [calls]
    cmp dword ptr [where_to_go], 0
    jne elsewhere
    mov eax, [esp + 4]
    mov [saved], eax
    mov eax, [esp + 8]
    mov [saved + 4], eax
    mov eax, [esp + 12]
    mov [saved + 8], eax
    mov eax, [esp + 16]
    mov [saved + 12], eax
    expect_eq dword ptr [esp + 20], behind_the_call
    pushad
    print_text "Failsafe callback: DS "
    print_hex dword ptr [saved]
    print_text " ES "
    print_hex dword ptr [saved + 4]
    print_text " FS "
    print_hex dword ptr [saved + 8]
    print_text " GS "
    print_hex dword ptr [saved + 12]
    print_text "\n"
    describe 0x0000FFFF, 0x00CFB200              ; present again
    popad
    pop eax
    pop ds
    pop es
    pop fs
    pop gs
    iretd

elsewhere:
    pop eax
    add esp, 4 * 7                               ; the frame of an IRET that led nowhere is worth nothing
    jmp dword ptr [where_to_go]

no_event:
    fail "no event is expected"

.include "xen_routines.inc"
memory_routines
.align 4
frames: .long 0
calls: .long 0
where_to_go: .long 0
stack_before: .long 0
saved: .space 16

page shared_info

.align PAGE_SIZE
gdt:
    .space 16
    .long 0x0000FFFF, 0x00CFB200                 ; flat, DPL 1, data
    .space PAGE_SIZE - 24
