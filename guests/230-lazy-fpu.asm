; ---
; title = "The FPU, lazily: two TS bits and one CLTS that clears neither or both"
; modes = ["pv"]
;
; [expect]
; console = """
; CLTS, FPU not used yet: virtual TS 0, real TS 1
; first use: Xen hands over the FPU, the kernel sees nothing
; task switch: both 1
; next use: #NM for the kernel, which clears the virtual TS
; CLTS, FPU in use: virtual TS 0, real TS 0, and no fault
; """
; exits = { nm = 2, gp = 8 }
; hypercalls = { fpu_taskswitch = 3 }
; ---
; Nobody wants to save 500 bytes of FPU state at each switch. CR0.TS makes the next FPU instruction fault (#NM), and
; only then the owner changes. Kernels do so between tasks, Xen does so between virtual CPUs, and there is one real
; TS. So Xen keeps a virtual one for the guest and a note whether this virtual CPU has used ("dirtied") the FPU since
; it was scheduled:
;
;   fpu_taskswitch(1)   virtual TS := 1, real TS := 1
;   CLTS                virtual TS := 0; the real TS only if the FPU is dirtied: else it still holds another's state
;   #NM                 real TS := 0, dirtied := 1; the kernel is told if the virtual TS was set, which clears that too
;
; (arch/x86/traps.c, do_fpu_taskswitch and math_state_restore.) CLTS comes to do_fpu_taskswitch(0) by way of #GP and
; emulate_privileged_op, so the hypercall saves the trap, not the work. The article this laboratory follows says that
; CLTS is not replaced by a hypercall; Xen's own Linux of 3.0 did replace it.

.include "xen.inc"

; ts VIRTUAL, REAL: MOV from CR0 shows the one, SMSW leaks the other.
.macro ts virtual, real
    mov eax, cr0
    and eax, CR0_TS
    expect_eq eax, \virtual * CR0_TS
    smsw eax
    and eax, CR0_TS
    expect_eq eax, \real * CR0_TS
.endm

start:
    hypercall set_trap_table, traps

    hypercall fpu_taskswitch, 1
    expect_eq eax, 0
    ts 1, 1
    clts
    ts 0, 1
    print_text "CLTS, FPU not used yet: virtual TS 0, real TS 1\n"

    fninit
    expect_eq dword ptr [faults], 0
    ts 0, 0
    print_text "first use: Xen hands over the FPU, the kernel sees nothing\n"

    hypercall fpu_taskswitch, 1
    ts 1, 1
    print_text "task switch: both 1\n"

    fld1
    expect_eq dword ptr [faults], 1
    ts 0, 0
    print_text "next use: #NM for the kernel, which clears the virtual TS\n"

    ; No exit but that of CLTS: the FPU is this virtual CPU's, and the value is still there.
    hypercall fpu_taskswitch, 1
    clts
    ts 0, 0
    fistp dword ptr [value]
    expect_eq dword ptr [value], 1
    expect_eq dword ptr [faults], 1
    print_text "CLTS, FPU in use: virtual TS 0, real TS 0, and no fault\n"
    shutdown poweroff

; A fault without an error code. A kernel would load the FPU state of its task here.
on_nm:
    inc dword ptr [faults]
    iretd

.include "xen_routines.inc"

trap_table_begin traps
    trap VECTOR_NM, 0, on_nm
trap_table_end
faults: .long 0
value: .long 0
