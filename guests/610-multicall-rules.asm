; ---
; title = "multicall: errors in place, no nesting, and what blocks takes effect"
; modes = ["pv"]
;
; [expect]
; console = """
; A failing entry has its error in its place; the ones behind it were done.
; A multicall inside a multicall is -22, the rest is done.
; block inside: the list is finished, then the vCPU sleeps.
; shutdown inside ends the domain there and then.
; """
;
; [expect.hypercalls]
; multicall = 6
; # in lists only: one to sleep and one to end, whose list does not come to its last entry
; sched_op = 1
; sched_op_compat = 1
; ---
; common/multicall.c: sequential; a result for each; the multicall's own result is 0, or -EFAULT if the list cannot
; be read. An entry that is itself a multicall gets -EINVAL. sched_op(block) marks the vCPU as blocked, but it goes
; on until Xen's next way out, which is behind the list.

.include "xen.inc"

; result N: the result field of entry number N of a list.
.macro expect_result list, n, wanted
    expect_eq dword ptr [\list + \n * MULTICALL_ENTRY_SIZE + MULTICALL_RESULT], \wanted
.endm

start:
    map_shared_info
    set_callbacks upcall, upcall
    bind_virq VIRQ_TIMER
    mov [timer_port], eax

    hypercall multicall, failing, 4
    expect_eq eax, 0
    expect_result failing, 0, XEN_VERSION
    expect_result failing, 1, -ENOSYS
    expect_result failing, 2, -EFAULT
    expect_result failing, 3, PAGE_SIZE
    print_text "A failing entry has its error in its place; the ones behind it were done.\n"

    hypercall multicall, nested, 3
    expect_eq eax, 0
    expect_result nested, 0, XEN_VERSION
    expect_result nested, 1, -EINVAL
    expect_result nested, 2, XEN_VERSION
    expect_result innermost, 0, 0x5AFE           ; untouched
    print_text "A multicall inside a multicall is -22, the rest is done.\n"

    rdtsc
    add eax, 1000000
    mov [sleeping + MULTICALL_ARGS], eax         ; the timer's time, low half: enough for the first four seconds
    hypercall multicall, sleeping, 3
    expect_eq eax, 0
    expect_result sleeping, 0, 0
    expect_result sleeping, 1, 0
    expect_result sleeping, 2, XEN_VERSION
    expect_eq dword ptr [ticks], 1
    print_text "block inside: the list is finished, then the vCPU sleeps.\n"

    hypercall multicall, HYPERVISOR_VIRT_START - MULTICALL_ENTRY_SIZE, 1
    expect_error EFAULT                          ; below Xen, but nothing is mapped there
    print_text "shutdown inside ends the domain there and then.\n"
    hypercall multicall, ending, 2
    ud2

upcall:
    pushad
    begin_upcall
    take_port dword ptr [timer_port]
    adc dword ptr [ticks], 0
    popad
    iret_hypercall

.include "xen_routines.inc"
message not_printed, "this is not printed\n"
.align 4
failing:
    multicall_entry xen_version, XENVER_version
    multicall_entry xen_version, 99
    multicall_entry xen_version, XENVER_changeset, HYPERVISOR_VIRT_START
    multicall_entry xen_version, XENVER_pagesize
innermost:
    .long __HYPERVISOR_xen_version, 0x5AFE, XENVER_version, 0, 0, 0, 0, 0
nested:
    multicall_entry xen_version, XENVER_version
    multicall_entry multicall, innermost, 1
    multicall_entry xen_version, XENVER_version
sleeping:
    multicall_entry set_timer_op, 0, 0
    multicall_entry sched_op_compat, SCHEDOP_block, 0
    multicall_entry xen_version, XENVER_version
ending:
    multicall_entry sched_op, SCHEDOP_shutdown, reason
    multicall_entry console_io, CONSOLEIO_write, length_of_not_printed, not_printed
reason: .long SHUTDOWN_poweroff
timer_port: .long 0
ticks: .long 0

page shared_info
