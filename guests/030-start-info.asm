; ---
; title = "What a new kernel is handed: start_info, shared_info, frames"
; modes = ["pv"]
;
; [run]
; memory = "16M"
; cmdline = "console=xvc0 quiet"
;
; [expect]
; console = """
; xen-3.0-x86_32
; pages: 4096
; command line: console=xvc0 quiet
; page 0x100 is another machine frame, and the table says which
; events are masked
; """
; exits = { gp = 0, pf = 0 }
; hypercalls = { update_va_mapping = 1 }
; ---
; There is no BIOS to ask. ESI holds the linear address of one structure, start_info, and everything else hangs on it
; (xen/include/public/xen.h). The kernel is in protected mode with paging on from its first instruction: it could not
; turn either on by itself.
;
; Two kinds of page number have to be kept apart. The kernel's own memory is pages 0, 1, 2, ... (pseudo-physical,
; "pfn"). Page tables hold machine frames ("mfn"), which are whatever Xen had free. mfn_list goes from pfn to mfn; a
; table that Xen shows read-only at 0xFC000000 goes back.

.include "xen.inc"

start:
    ; Flat segments with DPL 1: the selectors show the ring. ESP ends the page behind all the rest.
    mov eax, cs
    expect_eq eax, FLAT_KERNEL_CS
    mov eax, ss
    expect_eq eax, FLAT_KERNEL_SS
    mov eax, ds
    expect_eq eax, FLAT_KERNEL_DS
    mov ebp, esi

    ; magic: 32 bytes, and how a kernel knows the interface.
    hypercall console_io, CONSOLEIO_write, 14, ebp
    print_text "\n"
    movzx eax, byte ptr [ebp + 14]
    expect_eq eax, 0

    print_text "pages: "
    mov eax, [ebp + START_INFO_NR_PAGES]
    print_dec eax
    print_text "\n"
    mov eax, [ebp + START_INFO_FLAGS]
    expect_eq eax, 0            ; neither SIF_PRIVILEGED nor SIF_INITDOMAIN

    lea edi, [ebp + START_INFO_CMD_LINE]
    mov edx, edi
1:  cmp byte ptr [edi], 0
    je 2f
    inc edi
    jmp 1b
2:  sub edi, edx
    print_text "command line: "
    hypercall console_io, CONSOLEIO_write, edi, edx
    print_text "\n"

    ; This code is at 1 MiB: pfn 0x100. Its frame is another number, and both tables agree on it.
    mov edi, [ebp + START_INFO_MFN_LIST]
    mov ecx, [edi + 4 * (start >> PAGE_SHIFT)]
    cmp ecx, start >> PAGE_SHIFT
    je same
    mov eax, [MACH2PHYS_VIRT_START + 4 * ecx]
    expect_eq eax, start >> PAGE_SHIFT

    ; pt_base is the page directory; 1 + 16 MiB / 4 MiB tables. Entry 0 names the frame of the first page table, which
    ; is the page behind, and that one's entry 0x100 the frame of this code: P, RW, A as the domain builder writes it.
    mov ebx, [ebp + START_INFO_PT_BASE]
    mov eax, [ebp + START_INFO_NR_PT_FRAMES]
    expect_eq eax, 5
    mov eax, [ebx]
    shr eax, PAGE_SHIFT
    mov eax, [MACH2PHYS_VIRT_START + 4 * eax]
    mov edx, ebx
    shr edx, PAGE_SHIFT
    inc edx
    expect_eq eax, edx
    mov eax, [ebx + PAGE_SIZE + 4 * (start >> PAGE_SHIFT)]
    and eax, 0xFFFFFFFF - PTE_D
    shl ecx, PAGE_SHIFT
    or ecx, PTE_P | PTE_RW | PTE_A
    expect_eq eax, ecx
    print_text "page 0x100 is another machine frame, and the table says which\n"

    ; shared_info belongs to Xen and is named by its machine address: the kernel maps it where it likes. Each virtual
    ; CPU's events start out masked, which is what a virtual IF of 0 means.
    map_shared_info ebp
    expect_eq eax, 0
    movzx eax, byte ptr [shared_info + VCPU_INFO_MASK]
    expect_eq eax, 1
    movzx eax, byte ptr [shared_info + 31 * VCPU_INFO_SIZE + VCPU_INFO_MASK]
    expect_eq eax, 1
    print_text "events are masked\n"
    shutdown poweroff

same:
    fail "the machine frame is the page's own number"

.include "xen_routines.inc"
page shared_info
