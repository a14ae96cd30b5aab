; ---
; title = "Privileged and not emulated: each comes back as #GP(0)"
; modes = ["pv"]
;
; [expect]
; console = """
; LGDT: use set_gdt
; LIDT: use set_trap_table
; LLDT: use mmuext_op(SET_LDT)
; LTR: use stack_switch
; LMSW: use fpu_taskswitch
; INVLPG: use mmuext_op(INVLPG_LOCAL)
; INVD: has no use
; HLT: use sched_op(block)
; RDPMC: has no use
; MOV CR0 without WP: has no use
; MOV CR4 with TSD: has no use
; 11 faults
; """
; # 11 bounced, and the two reads of CR0 and CR4, which Xen emulates
; exits = { gp = 13 }
; ---
; Xen emulates few instructions: those that a kernel cannot easily be rid of. The rest are #GP(0) in ring 1, and that is
; what the kernel gets. For each there is a hypercall, or nobody needs it (arch/x86/traps.c; SDM 3 section 5.9 lists the
; privileged instructions).
;
.include "xen.inc"

; refused AT, NEXT, "text": one row of the table, 64 bytes.
ROW = 64
.macro refused at, next, text
    .long \at, \next, .Lend_\@ - .Ltext_\@
    .Ltext_\@: .ascii \text
    .Lend_\@: .space ROW - 12 - (.Lend_\@ - .Ltext_\@)
.endm

start:
    hypercall set_trap_table, traps
    mov eax, 0
    mov ecx, 0
i1: lgdt [pseudo]
i2: lidt [pseudo]
i3: lldt ax
i4: ltr ax
i5: lmsw ax
i6: invlpg [start]
i7: invd
i8: hlt
    ; CR4.PCE is 0, so counters are for ring 0 only.
i9: rdpmc
after_i9:
    ; CR0 may be written with its own value but for TS, and CR4 with its own value: whatever asks for a change is
    ; refused (since 3.0.2; 3.0.0 dropped the change of CR0 and bounced every write of CR4).
    mov eax, cr0
    and eax, 0xFFFFFFFF - CR0_WP
i10: mov cr0, eax
after_i10:
    mov eax, cr4
    or eax, CR4_TSD
i11: mov cr4, eax
i12:
    print_dec dword ptr [faults]
    print_text " faults\n"
    shutdown poweroff

; The handler works from a table: where an instruction is, where to go on, what to say. All registers survive.
on_gp:
    pushad                          ; eight registers: the error code is at +32, EIP at +36
    mov eax, [esp + 36]
    mov esi, offset table
1:  cmp esi, offset table_end
    jae strange
    cmp [esi], eax
    je 2f
    add esi, ROW
    jmp 1b
2:  cmp dword ptr [esp + 32], 0
    jne strange
    mov eax, [esi + 4]
    mov [esp + 36], eax
    lea edx, [esi + 12]
    hypercall console_io, CONSOLEIO_write, [esi + 8], edx
    print_text "\n"
    inc dword ptr [faults]
    popad
    add esp, 4
    iretd
strange:
    fail "a #GP that is not in the table"

.include "xen_routines.inc"

table:
    refused i1, i2, "LGDT: use set_gdt"
    refused i2, i3, "LIDT: use set_trap_table"
    refused i3, i4, "LLDT: use mmuext_op(SET_LDT)"
    refused i4, i5, "LTR: use stack_switch"
    refused i5, i6, "LMSW: use fpu_taskswitch"
    refused i6, i7, "INVLPG: use mmuext_op(INVLPG_LOCAL)"
    refused i7, i8, "INVD: has no use"
    refused i8, i9, "HLT: use sched_op(block)"
    refused i9, after_i9, "RDPMC: has no use"
    refused i10, after_i10, "MOV CR0 without WP: has no use"
    refused i11, i12, "MOV CR4 with TSD: has no use"
table_end:

trap_table_begin traps
    trap VECTOR_GP, 0, on_gp
trap_table_end
pseudo: .word 0xFFFF
    .long 0
faults: .long 0
