; ---
; title = "multicall: many hypercalls for the price of one exit"
; modes = ["pv"]
;
; [expect]
; console = """
; 32 updates by 32 hypercalls: 32 exits, 32 pages changed
; 32 updates by 1 multicall:   1 exits, 32 pages changed
; """
;
; [expect.hypercalls]
; # twice 32, each counted though half of them caused no exit of their own
; update_va_mapping = 64
; multicall = 1
;
; [expect.exits]
; # 32 single ones, 1 multicall, 10 to print (5 a line), 1 to end
; hypercall = 44
; ---
; An exit costs far more than what most hypercalls do. multicall takes a list of calls, each with its number, room
; for a result, and arguments, and works through it in order (common/multicall.c). The network back end used it for
; the two or three calls that each packet took; task switches use it (590-two-tasks.asm).
;
; Below 32 pages are protected one by one, and opened again by one list. The guest counts the INT 0x82 that it
; executes.

.include "xen.inc"
.include "xen_memory.inc"

PAGES = 32

start:
    memory_begin
    print_text "32 updates by 32 hypercalls: "
    mov edi, offset pages
    mov ebp, 0
one_by_one:
    page_entry edi, PAGE_READONLY
    map edi, eax
    inc dword ptr [exits]
    expect_eq eax, 0
    add edi, PAGE_SIZE
    inc ebp
    cmp ebp, PAGES
    jb one_by_one
    mov ebx, 0
    call report

    print_text "32 updates by 1 multicall:   "
    mov edi, offset pages
    mov ebp, offset list
fill:
    page_entry edi, PAGE_KERNEL
    mov dword ptr [ebp + MULTICALL_OP], __HYPERVISOR_update_va_mapping
    mov dword ptr [ebp + MULTICALL_RESULT], 0xFFFFFFFF
    mov [ebp + MULTICALL_ARGS], edi
    mov [ebp + MULTICALL_ARGS + 4], eax
    mov dword ptr [ebp + MULTICALL_ARGS + 8], 0
    mov dword ptr [ebp + MULTICALL_ARGS + 12], UVMF_INVLPG
    add edi, PAGE_SIZE
    add ebp, MULTICALL_ENTRY_SIZE
    cmp edi, pages_end
    jb fill
    hypercall multicall, list, PAGES
    inc dword ptr [exits]
    expect_eq eax, 0
    mov ebx, PTE_RW
    call report
    shutdown poweroff

; EBX = the RW bit that the pages' entries should have now: count those, and print both numbers.
report:
    mov esi, [memory_tables]
    add esi, PAGE_SIZE + (pages >> PAGE_SHIFT) * 4
    mov ebp, 0
    mov ecx, PAGES
each:
    mov eax, [esi]
    and eax, PTE_RW
    cmp eax, ebx
    jne other
    inc ebp
other:
    add esi, 4
    dec ecx
    jnz each
    print_dec dword ptr [exits]
    print_text " exits, "
    print_dec ebp
    print_text " pages changed\n"
    mov dword ptr [exits], 0
    ret

.include "xen_routines.inc"
memory_routines
.align 4
exits: .long 0
list: .space PAGES * MULTICALL_ENTRY_SIZE

.align PAGE_SIZE
pages: .space PAGES * PAGE_SIZE
pages_end:
