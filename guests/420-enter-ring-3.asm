; ---
; title = "To ring 3 and back: by IRET or the iret hypercall, by int 0x80 or a fault"
; modes = ["pv"]
;
; [expect]
; console = """
; IRET leads to ring 3: CS 0000e02b SS 0000e033
; int 0x80 comes back on the kernel's stack, with 5 words and no error code.
; The iret hypercall leads to ring 3 too, and EAX comes from its frame: 00abcdef
; A fault comes back with its error code: a ring-1 page read from ring 3 is 00000005
; Segments of ring 1 do not survive the way out: DS 00000000
; """
;
; [expect.exits]
; gate = 3
; pf = 1
; gp = 0
;
; [expect.hypercalls]
; iret = 1
; stack_switch = 1
; ---
; Applications run in ring 3 as ever; it is the kernel that has moved, from 0 to 1. IRET to an outer ring is not
; privileged, so the kernel enters ring 3 by itself. Its frame: EIP, CS, EFLAGS, ESP, SS. The iret hypercall (3.0.2)
; takes the same with EAX on top, and does one thing more, as a single step: IF of the frame becomes "events
; deliverable".
;
; Ring 3 reaches only pages with U in their entries. The builder sets it in no page, so the guest opens what its
; application needs. On the way back the CPU finds SS1:ESP1 in the TSS: the stack that stack_switch set.

.include "xen.inc"
.include "xen_memory.inc"

start:
    memory_begin
    map_shared_info
    kernel_stack kernel_top
    hypercall set_trap_table, traps
    open_to_user user_begin, user_end

    mov dword ptr [next], first_back
    enter_user user_first, user_top

; Stack: EIP, CS, EFLAGS, ESP, SS.
first_back:
    expect_eq esp, kernel_top - 20
    expect_eq dword ptr [esp], after_first
    expect_eq dword ptr [esp + 4], FLAT_USER_CS
    expect_eq dword ptr [esp + 12], user_top
    expect_eq dword ptr [esp + 16], FLAT_USER_SS
    print_text "IRET leads to ring 3: CS "
    print_hex ebx
    print_text " SS "
    print_hex ecx
    print_text "\nint 0x80 comes back on the kernel's stack, with 5 words and no error code.\n"

    mov dword ptr [next], second_back
    mov esp, kernel_top
    user_frame user_second, user_top
    load_user_segments
    mov eax, 0xABCDEF
    iret_hypercall
second_back:
    print_text "The iret hypercall leads to ring 3 too, and EAX comes from its frame: "
    print_hex eax
    print_text "\n"

    mov esp, kernel_top
    enter_user user_third, user_top

; Stack: error code, EIP, CS | saved upcall mask << 16, EFLAGS, ESP, SS.
page_fault:
    expect_eq esp, kernel_top - 24
    expect_eq dword ptr [esp + 4], user_third
    expect_eq dword ptr [shared_info + VCPU_INFO_CR2], kernel_page
    print_text "A fault comes back with its error code: a ring-1 page read from ring 3 is "
    print_hex dword ptr [esp]
    print_text "\n"

    ; IRET nulls a data segment that ring 3 may not have (SDM 2, IRET). DS is that of ring 1 here.
    mov dword ptr [next], fourth_back
    mov eax, FLAT_KERNEL_DS
    mov ds, eax
    mov esp, kernel_top
    user_frame user_fourth, user_top
    iretd
fourth_back:
    print_text "Segments of ring 1 do not survive the way out: DS "
    print_hex ebx
    print_text "\n"
    shutdown poweroff

; int 0x80 of each visit. DS may be null: reload it first, then go on with that visit's story.
system_call:
    push eax
    mov eax, FLAT_KERNEL_DS
    mov ds, eax
    mov es, eax
    pop eax
    jmp dword ptr [next]

trap_table_begin traps
trap 0x80, 3, system_call
trap VECTOR_PF, 0, page_fault
trap_table_end
next: .long 0

.include "xen_routines.inc"
memory_routines
stack kernel_top

page shared_info
page kernel_page

.align PAGE_SIZE
user_begin:
user_first:
    mov ebx, cs
    mov ecx, ss
    int 0x80
after_first:
user_second:
    int 0x80
user_third:
    mov eax, [kernel_page]
user_fourth:
    mov ebx, ds
    int 0x80
.align PAGE_SIZE
.space PAGE_SIZE
user_top:
user_end:
