; ---
; title = "Event channels: ports of every kind, what they show and what is refused"
; modes = ["pv"]
;
; [expect]
; console = """
; port 00000001: unbound
; port 00000002: interdomain, its other end is port 00000001
; port 00000003: virq 00000000
; port 00000004: ipi
; closed, port 1 leaves port 2 unbound
; fifteen mistakes, each with its error
; """
;
; [expect.exits]
; gp = 0
; pf = 0
; ---
; An event channel is the interrupt line of a paravirtual world: a port number on each end, one bit to say that
; something happened (common/event_channel.c). Ports are given out from 1 on, the lowest free one first. Four kinds
; matter here:
;
;   unbound       waits for a domain to bind to it          alloc_unbound
;   interdomain   two ends; what one sends, the other gets   bind_interdomain
;   virq          a virtual interrupt of this vCPU          bind_virq
;   ipi           from the guest to itself                  bind_ipi
;
; A domain can bind to its own unbound port, which makes a loop: there is no second domain here.

.include "xen.inc"

; channel OPERATION, STRUCTURE: EAX = result.
.macro channel operation, structure
    hypercall event_channel_op, EVTCHNOP_\operation, \structure
.endm

; with FIELD values: fill the scratch structure's first three dwords.
.macro with first, second=0, third=0
    mov dword ptr [scratch], \first
    mov dword ptr [scratch + 4], \second
    mov dword ptr [scratch + 8], \third
.endm

.macro refused error, operation, first, second=0
    with \first, \second
    channel \operation, scratch
    expect_error \error
.endm

; status PORT, WANTED: ask, compare, print "port N: ".
.macro status port, wanted
    with DOMID_SELF, \port
    channel status, scratch
    expect_eq eax, 0
    expect_eq dword ptr [scratch + EVTCHN_STATUS_STATUS], EVTCHNSTAT_\wanted
.endm

.macro say port
    print_text "port "
    print_hex \port
    print_text ": "
.endm

start:
    with DOMID_SELF | DOMID_SELF << 16           ; dom, remote_dom
    channel alloc_unbound, scratch
    expect_eq eax, 0
    expect_eq dword ptr [scratch + 4], 1         ; port 0 is never given
    status 1, unbound
    say 1
    print_text "unbound\n"

    with DOMID_SELF, 1
    channel bind_interdomain, scratch
    expect_eq eax, 0
    expect_eq dword ptr [scratch + 8], 2
    status 2, interdomain
    expect_eq dword ptr [scratch + EVTCHN_STATUS_UNION + 4], 1
    say 2
    print_text "interdomain, its other end is port "
    print_hex dword ptr [scratch + EVTCHN_STATUS_UNION + 4]
    print_text "\n"
    status 1, interdomain
    expect_eq dword ptr [scratch + EVTCHN_STATUS_UNION + 4], 2

    bind_virq VIRQ_TIMER
    expect_eq eax, 3
    status 3, virq
    say 3
    print_text "virq "
    print_hex dword ptr [scratch + EVTCHN_STATUS_UNION]
    print_text "\n"

    with 0
    channel bind_ipi, scratch
    expect_eq eax, 0
    expect_eq dword ptr [scratch + 4], 4
    status 4, ipi
    say 4
    print_text "ipi\n"

    with 1
    channel close, scratch
    expect_eq eax, 0
    status 1, closed
    status 2, unbound
    print_text "closed, port 1 leaves port 2 unbound\n"
    with 2
    channel send, scratch                        ; nobody is there: no error, and the event is lost
    expect_eq eax, 0

    refused EINVAL, close, 1                     ; twice
    refused EINVAL, send, 1
    refused EINVAL, send, NR_EVENT_CHANNELS
    refused EINVAL, send, 3                      ; a virq is Xen's to send
    refused EINVAL, unmask, NR_EVENT_CHANNELS
    refused EINVAL, bind_interdomain, DOMID_SELF, 4
    refused ESRCH, bind_interdomain, 5, 1        ; there is no domain 5
    refused EPERM, alloc_unbound, 5              ; nor would it be ours to allocate for
    refused EEXIST, bind_virq, VIRQ_TIMER
    refused EINVAL, bind_virq, NR_VIRQS
    refused ENOENT, bind_virq, VIRQ_DEBUG, 1     ; vCPU 1
    refused ENOENT, bind_ipi, 1
    refused EPERM, bind_pirq, 4                  ; no hardware for us
    channel send, HYPERVISOR_VIRT_START
    expect_error EFAULT
    hypercall event_channel_op, 99, scratch
    expect_error ENOSYS
    print_text "fifteen mistakes, each with its error\n"
    shutdown poweroff

.include "xen_routines.inc"
.align 4
scratch: .space EVTCHN_STATUS_SIZE
