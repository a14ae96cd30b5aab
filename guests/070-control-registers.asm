; ---
; title = "Control registers: what is read, what may be written"
; modes = ["pv"]
;
; [expect]
; console = """
; CR0 80050033 CR4 00000600
; TS follows CR0
; CR2 12345678
; CR3: the page directory's machine address
; refused: CR0 without PE
; refused: CR3 with a pseudo-physical address
; refused: CR4 with PGE
; """
; exits = { gp = 15, pf = 0 }
; ---
; Each MOV to or from a control register is #GP(0) in ring 1. Reads are all emulated; of what is written, only TS, CR2
; and another page directory have an effect (arch/x86/traps.c, emulate_privileged_op as of 3.0.4):
;
;   CR0  reads as the real one (PE MP ET NE WP AM PG: 80050033) with the guest's own TS; a write may change only TS
;   CR2  the address of the last page fault that the guest was given, also in vcpu_info.arch.cr2
;   CR3  the machine address of the page directory; a write is checked as mmuext_op(NEW_BASEPTR) is
;   CR4  reads as the real one without PSE and PGE (OSFXSR and OSXMMEXCPT remain: 600); a write must not change it

.include "xen.inc"

start:
    mov ebp, esi
    map_shared_info ebp
    hypercall set_trap_table, traps

    mov eax, cr0
    expect_eq eax, CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG
    print_text "CR0 "
    print_hex eax
    mov eax, cr4
    expect_eq eax, CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, eax                    ; its own value: accepted, and nothing happens
    print_text " CR4 "
    print_hex eax
    print_text "\n"

    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
    mov ebx, cr0
    expect_eq ebx, eax
    and eax, 0xFFFFFFFF - CR0_TS
    mov cr0, eax
    mov ebx, cr0
    expect_eq ebx, eax
    print_text "TS follows CR0\n"

    mov eax, 0x12345678
    mov cr2, eax
    mov ebx, cr2
    expect_eq ebx, 0x12345678
    mov ebx, [shared_info + VCPU_INFO_CR2]
    expect_eq ebx, 0x12345678
    print_text "CR2 "
    print_hex ebx
    print_text "\n"

    ; The pfn of the page directory is known from start_info, its machine frame from the table there.
    mov ecx, [ebp + START_INFO_PT_BASE]
    shr ecx, PAGE_SHIFT
    mov edx, [ebp + START_INFO_MFN_LIST]
    mov edx, [edx + 4 * ecx]
    shl edx, PAGE_SHIFT
    mov eax, cr3
    expect_eq eax, edx
    mov cr3, eax
    print_text "CR3: the page directory's machine address\n"

    mov eax, 0x80050032
    mov edi, offset cr0_done
cr0_bad:
    mov cr0, eax
    fail "CR0.PE could be cleared"
cr0_done:
    print_text "refused: CR0 without PE\n"

    ; What a kernel would do that takes its own page numbers for the machine's: the frame is not its own.
    mov eax, [ebp + START_INFO_PT_BASE]
    mov edi, offset cr3_done
cr3_bad:
    mov cr3, eax
    fail "CR3 took a pseudo-physical address"
cr3_done:
    print_text "refused: CR3 with a pseudo-physical address\n"

    mov eax, CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE
    mov edi, offset cr4_done
cr4_bad:
    mov cr4, eax
    fail "CR4.PGE could be set"
cr4_done:
    print_text "refused: CR4 with PGE\n"
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
page shared_info
