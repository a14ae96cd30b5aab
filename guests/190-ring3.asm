; ---
; title = "Ring 3: no hypercalls, no privileges"
; modes = ["pv"]
;
; [expect]
; console = """
; int 82 in ring 3: #GP(412)
; CLI, CLTS, HLT, IN, OUT: #GP(0)
; int 82 with a guest gate of DPL 3: the kernel's own software interrupt
; """
; exits = { gp = 7, pf = 0, nm = 0 }
; ---
; An application must not talk to Xen: the gate of vector 82h has DPL 1, so INT 82h in ring 3 is #GP(82h * 8 + 2),
; #GP(412h). Xen gives that to the guest's kernel, on the stack that the kernel named by stack_switch, with the
; application's SS:ESP on it, as the CPU would have done through a TSS. If the kernel's trap table has an entry 82h
; for ring 3, the same instruction is an ordinary software interrupt instead: a kernel may lend the vector to its
; applications, Xen does not.
;
; CLTS is emulated for the kernel only. CLI and IN look at the virtual IOPL: for ring 3 it would have to be 3.

.include "xen.inc"

; open_to_user PAGE: set the U bit of the page's entry; EBP = start_info.
.macro open_to_user address
    mov eax, [ebp + START_INFO_MFN_LIST]
    mov ecx, [eax + 4 * ((\address) >> PAGE_SHIFT)]
    shl ecx, PAGE_SHIFT
    or ecx, PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D
    hypercall update_va_mapping, \address, ecx, 0, UVMF_INVLPG
    expect_eq eax, 0
.endm

start:
    mov ebp, esi
    hypercall set_trap_table, traps
    kernel_stack kernel_top
    open_to_user user_page
    enter_user user_page, user_top

; Stack: error code, EIP, CS, EFLAGS, ESP, SS.
on_gp:
    push eax
    mov eax, [esp + 4]
    cmp dword ptr [round], 0
    jne 1f
    expect_eq eax, 0x82 * 8 + ERROR_IDT
    jmp 2f
1:  expect_eq eax, 0
2:  mov eax, [round]
    mov eax, [places + 4 * eax]
    expect_eq eax, dword ptr [esp + 8]
    movzx eax, word ptr [esp + 12]
    expect_eq eax, FLAT_USER_CS
    mov eax, [esp + 20]
    expect_eq eax, user_top
    lea eax, [esp + 28]
    expect_eq eax, kernel_top
    inc dword ptr [round]
    mov eax, [round]
    mov eax, [places + 4 * eax]
    mov [esp + 8], eax
    pop eax
    add esp, 4
    cmp dword ptr [round], 6
    jne 3f
    print_text "int 82 in ring 3: #GP(412)\nCLI, CLTS, HLT, IN, OUT: #GP(0)\n"
    ; One entry more, and INT 82h is a software interrupt of the guest.
    pushad
    hypercall set_trap_table, lent
    popad
3:  iretd

on_82:
    mov eax, [esp]
    expect_eq eax, u_end
    print_text "int 82 with a guest gate of DPL 3: the kernel's own software interrupt\n"
    shutdown poweroff

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
trap_table_begin lent
    trap 0x82, 3, on_82
trap_table_end
round: .long 0
places: .long user_page, u_cli, u_clts, u_hlt, u_in, u_out, u_again
stack kernel_top

; The application.
.align PAGE_SIZE
user_page:
    int 0x82
u_cli:
    cli
u_clts:
    clts
u_hlt:
    hlt
u_in:
    in al, 0x80
u_out:
    out 0x80, al
u_again:
    int 0x82
u_end:
    jmp u_end
.align PAGE_SIZE
user_top:
