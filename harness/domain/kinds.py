"""The closed set of exit kinds: what brought control from the guest to the hypervisor."""

from __future__ import annotations

from harness.abi.x86 import Vector

EXCEPTION_KINDS: dict[int, str] = {vector: vector.name.lower() for vector in Vector if vector is not Vector.NMI}
"""Kind of an exit that is an exception, by vector: `gp`, `pf`, ..."""

KINDS: dict[str, str] = {
    "de": "#DE divide error",
    "db": "#DB debug",
    "bp": "#BP breakpoint (INT3)",
    "of": "#OF overflow (INTO)",
    "br": "#BR bound range exceeded",
    "ud": "#UD invalid opcode",
    "nm": "#NM device not available",
    "df": "#DF double fault",
    "ts": "#TS invalid TSS",
    "np": "#NP segment not present",
    "ss": "#SS stack fault",
    "gp": "#GP general protection",
    "pf": "#PF page fault",
    "mf": "#MF x87 floating-point error",
    "ac": "#AC alignment check",
    "mc": "#MC machine check",
    "xm": "#XM SIMD floating-point exception",
    "hypercall": "int 0x82 from ring 1",
    "gate": "a software interrupt through a trap gate of the guest's own, straight to ring 1",
    "cpuid": "CPUID",
    "rdtsc": "RDTSC",
    "sensitive": "a sensitive instruction that does not trap on silicon, intercepted",
    "slice": "the end of a counted slice of instructions: a timer ran out",
    "nested": "an access outside the memory given to the domain",
    "engine": "a state that the engine cannot carry on from",
}
