; ---
; title = "What Xen says of itself: xen_version"
; modes = ["pv"]
;
; [expect]
; console = """
; version 00030000
; capabilities xen-3.0-x86_32
; Xen begins at fc000000
; pages of 00001000 bytes
; features 00000000: nothing is translated, page tables are not writable
; """
;
; [expect.hypercalls]
; xen_version = 11
; ---
; Call 17 has a number of small questions (common/kernel.c). The cheapest of them is also how a guest gives Xen an
; occasion to deliver a pending event: any hypercall would do, and this one does nothing else.

.include "xen.inc"

start:
    hypercall xen_version, XENVER_version, 0
    expect_eq eax, XEN_VERSION
    print_text "version "
    print_hex eax
    hypercall xen_version, XENVER_capabilities, answer
    expect_eq eax, 0
    print_text "\ncapabilities "
    hypercall console_io, CONSOLEIO_write, 14, answer
    expect_eq dword ptr [answer + 14], 0         ; the rest is zero
    hypercall xen_version, XENVER_platform_parameters, answer
    expect_eq eax, 0
    print_text "\nXen begins at "
    print_hex dword ptr [answer]
    hypercall xen_version, XENVER_pagesize, 0
    print_text "\npages of "
    print_hex eax
    print_text " bytes\n"

    mov dword ptr [answer], 0                    ; submap 0 of the features
    hypercall xen_version, XENVER_get_features, answer
    expect_eq eax, 0
    print_text "features "
    print_hex dword ptr [answer + 4]
    print_text ": nothing is translated, page tables are not writable\n"
    mov dword ptr [answer], 1
    hypercall xen_version, XENVER_get_features, answer
    expect_error EINVAL

    hypercall xen_version, XENVER_extraversion, answer
    expect_eq eax, 0
    hypercall xen_version, XENVER_changeset, answer
    expect_eq eax, 0
    hypercall xen_version, XENVER_compile_info, answer
    expect_eq eax, 0
    hypercall xen_version, 99, answer
    expect_error ENOSYS
    hypercall xen_version, XENVER_capabilities, HYPERVISOR_VIRT_START
    expect_error EFAULT
    shutdown poweroff

.include "xen_routines.inc"
.align 4
answer: .space CAPABILITIES_SIZE
