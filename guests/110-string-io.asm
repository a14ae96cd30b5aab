; ---
; title = "INS and OUTS: strings, directions, and a page fault in the middle"
; modes = ["pv"]
;
; [expect]
; console = """
; REP INSB: 4 bytes of ff, ECX 0
; DF: the other way
; ECX 0: nothing at all
; a missing page: fault after 2 of 4, then the rest
; REP OUTSB: the same when reading
; """
; exits = { gp = 10, pf = 0 }
; hypercalls = { update_va_mapping = 4 }
; ---
; INS stores what it reads from port DX at ES:EDI, OUTS writes what it loads from DS:ESI; REP repeats by ECX, DF
; chooses the direction (SDM 2, INS and OUTS). Xen does the whole repetition at one exit. If the guest's memory is not
; there it stops: registers show what is done so far, EIP stays at the instruction, and the guest gets the page fault
; that the instruction would have met. Its handler maps the page and returns, and the instruction goes on where it
; was: #GP again, for the rest. Xen raised the fault itself, so no exit of kind #PF is counted.
;
; Error code of the fault: W for a store, and since 3.0.4 U only if the guest was in ring 3 (propagate_page_fault).

.include "xen.inc"

start:
    mov ebp, esi
    hypercall set_trap_table, traps
    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    expect_eq eax, 0
    pop eax
    mov edx, 0x80                   ; no device: all ones
    cld

    mov edi, offset low_page
    mov ecx, 4
    rep insb
    expect_eq ecx, 0
    expect_eq edi, low_page + 4
    expect_eq dword ptr [low_page], 0xFFFFFFFF
    expect_eq dword ptr [low_page + 4], 0
    print_text "REP INSB: 4 bytes of ff, ECX 0\n"

    ; From +20 down: words at 20, 18, 16.
    std
    mov edi, offset low_page + 20
    mov ecx, 3
    rep insw
    cld
    expect_eq edi, low_page + 14
    expect_eq dword ptr [low_page + 12], 0
    expect_eq dword ptr [low_page + 16], 0xFFFFFFFF
    expect_eq dword ptr [low_page + 20], 0x0000FFFF
    print_text "DF: the other way\n"

    mov edi, 0x10
    mov ecx, 0
    rep insd
    expect_eq edi, 0x10
    mov esi, 0x10
    rep outsd
    expect_eq esi, 0x10
    print_text "ECX 0: nothing at all\n"

    ; Two bytes fit below the missing page.
    call unmap_high_page
    mov dword ptr [error], PFEC_W
    mov edi, offset high_page - 2
    mov ecx, 4
    rep insb
    expect_eq dword ptr [faults], 1
    expect_eq ecx, 0
    expect_eq edi, high_page + 2
    expect_eq dword ptr [high_page], 0x0000FFFF
    print_text "a missing page: fault after 2 of 4, then the rest\n"

    call unmap_high_page
    mov dword ptr [error], 0
    mov esi, offset high_page - 2
    mov ecx, 4
    rep outsb
    expect_eq dword ptr [faults], 2
    expect_eq ecx, 0
    expect_eq esi, high_page + 2
    print_text "REP OUTSB: the same when reading\n"
    shutdown poweroff

unmap_high_page:
    pushad
    hypercall update_va_mapping, high_page, 0, 0, UVMF_INVLPG
    expect_eq eax, 0
    popad
    ret

; Stack after PUSHAD: error code at +32, EIP at +36. The address is where Xen keeps CR2 for the guest.
on_pf:
    pushad
    mov eax, cr2
    expect_eq eax, high_page
    mov eax, [esp + 32]
    expect_eq eax, dword ptr [error]
    expect_eq ecx, 2
    mov eax, [ebp + START_INFO_MFN_LIST]
    mov ecx, [eax + 4 * (high_page >> PAGE_SHIFT)]
    shl ecx, PAGE_SHIFT
    or ecx, PTE_P | PTE_RW | PTE_A | PTE_D
    hypercall update_va_mapping, high_page, ecx, 0, UVMF_INVLPG
    expect_eq eax, 0
    inc dword ptr [faults]
    popad
    add esp, 4
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_PF, 0, on_pf
trap_table_end
faults: .long 0
error: .long 0
page low_page
page high_page
