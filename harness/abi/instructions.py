"""Sensitive and privileged instructions as the architecture has them: one row each, no behaviour of ours.

Native outcomes and encodings: SDM 2, the instruction's page. Exit reasons and their controls: SDM 3 section 25.1 and
appendix C. SVM exit codes: AMD APM 2 appendix C. The classes 3B and 3C are those of Robin and Irvine, "Analysis of the
Intel Pentium's Ability to Support a Secure Virtual Machine Monitor" (2000); they list 18 mnemonics and call them 17.
What a ported kernel uses: the Linux of Xen 3.0.0 (linux-2.6-xen-sparse).

A LOCK prefix on any of these is #UD before privilege is looked at (SDM 2, LOCK).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Class(StrEnum):
    """Why an instruction is here."""

    PRIVILEGED = "privileged"
    IOPL = "IOPL-sensitive"
    REGISTERS = "sensitive and silent (Robin & Irvine 3B: system registers without a trap)"
    PROTECTION = "sensitive and silent (Robin & Irvine 3C: protection system without a trap)"
    SENSITIVE = "sensitive, outside Robin & Irvine's list"
    VMX = "VMX"
    SVM = "SVM"
    SMX = "SMX"


class Native(StrEnum):
    """What the CPU does with it in one ring. The words are for people; the names are the codes."""

    OK = "executes"
    DROPS = "executes; IF and IOPL keep their values, without a fault"
    KEEPS_IOPL = "executes; IF is loaded, IOPL keeps its value"
    JUDGED = "executes; a selector or gate that needs CPL 0 is #GP(selector)"
    GATE = "goes through the IDT; #GP(vector * 8 + 2) if the gate's DPL is below the ring"
    BITMAP = "#GP(0), unless the TSS's I/O bitmap allows the port"
    RING0 = "enters ring 0 at IA32_SYSENTER_EIP"
    DB = "#DB trap, whatever the gate's DPL"
    BR = "#BR if out of bounds, whatever the gate's DPL"
    GP0 = "#GP(0)"
    UD = "#UD"
    NONE = "does not exist here"


@dataclass(frozen=True, slots=True)
class Natively:
    """Outcome by ring; in rings 1 and 3 also by IOPL, which is 0 or the ring's own number."""

    ring0: Native
    ring1_iopl0: Native
    ring1_iopl1: Native
    ring3_iopl0: Native
    ring3_iopl3: Native

    def at(self, ring: int, iopl: int) -> Native:
        """The outcome in ring 0, 1 or 3."""
        if ring == 0:
            return self.ring0
        allowed = iopl >= ring
        return ((self.ring1_iopl1 if allowed else self.ring1_iopl0) if ring == 1
                else self.ring3_iopl3 if allowed else self.ring3_iopl0)


@dataclass(frozen=True, slots=True)
class VmxExit:
    """The VM exit of an instruction in VMX non-root operation.

    `control`: what turns it on, empty for always. `P1.n` and `P2.n` are bits of the primary and secondary
    processor-based controls. `note`: what the exit tells, or what else matters.
    """

    reason: int
    control: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction.

    `aliases`: other mnemonics that lead here. `encodings` are in the SDM's notation. `sample`: bytes of one form, empty
    where none stands alone. `vmx`: None where it never exits. `svm`: exit codes. `virtual`: the result that a guest
    kernel should see. `ported`: what a ported kernel does instead. `condition`: what changes the native outcome.
    `feature`: without it the outcome is `without`.
    """

    id: str
    mnemonic: str
    operands: str
    encodings: tuple[str, ...]
    category: Class
    native: Natively
    sample: bytes
    vmx: VmxExit | None
    svm: tuple[int, ...]
    virtual: str
    ported: str = ""
    condition: str = ""
    feature: str = ""
    without: Native = Native.UD
    aliases: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """Mnemonic and operands."""
        return f"{self.mnemonic} {self.operands}".rstrip()


# -- Shorthands for the rows below


def _everywhere(outcome: Native) -> Natively:
    return Natively(outcome, outcome, outcome, outcome, outcome)


def _outside_ring_0(outcome: Native) -> Natively:
    return Natively(Native.OK, outcome, outcome, outcome, outcome)


_FREE = _everywhere(Native.OK)
_PRIVILEGED = _outside_ring_0(Native.GP0)
_JUDGED = _outside_ring_0(Native.JUDGED)
_UNDEFINED = _everywhere(Native.UD)
_BY_IOPL = Natively(Native.OK, Native.GP0, Native.OK, Native.GP0, Native.OK)
_BY_BITMAP = Natively(Native.OK, Native.BITMAP, Native.OK, Native.BITMAP, Native.OK)
_IF_BY_IOPL = Natively(Native.OK, Native.DROPS, Native.KEEPS_IOPL, Native.DROPS, Native.KEEPS_IOPL)

_MEM = bytes.fromhex("00500000")
"""Address 0x5000, where samples have their memory operand."""


def _tables(identity: int) -> VmxExit:
    return VmxExit(46, "P2.2", f"instruction information: identity {identity}")


def _selectors(identity: int) -> VmxExit:
    return VmxExit(47, "P2.2", f"instruction information: identity {identity}")


_IO_EXIT = VmxExit(30, "P1.24 | P1.25 and its bit in the I/O bitmaps", "qualification: size, direction, port")
_STRING_IO_EXIT = VmxExit(30, "P1.24 | P1.25 and its bit in the I/O bitmaps",
                          "qualification: size, direction, string, REP, port; before segment and alignment faults")
_DR_EXIT = VmxExit(29, "P1.23", "before the privilege check and before DR4 and DR5 are #UD")
_IO_SVM = (0x7B,)

_UMIP = "CR4.UMIP: #GP(0) outside ring 0"
_TS = "CR0.TS, or EM: #NM"
_SVME = "EFER.SVME: legal in ring 0, #GP(0) outside"

_SILENT_ROWS = (
    Row("B1", "sgdt", "m", ("0F 01 /0 m",), Class.REGISTERS, _FREE, b"\x0f\x01\x05" + _MEM, _tables(0), (0x67,),
        "the virtual GDTR", condition=_UMIP),
    Row("B2", "sidt", "m", ("0F 01 /1 m",), Class.REGISTERS, _FREE, b"\x0f\x01\x0d" + _MEM, _tables(1), (0x66,),
        "the virtual IDTR", condition=_UMIP),
    Row("B3", "sldt", "r/m16, r32", ("0F 00 /0 r/m",), Class.REGISTERS, _FREE, b"\x0f\x00\xc0", _selectors(0), (0x68,),
        "the virtual LDTR", condition=_UMIP),
    Row("B4", "smsw", "r/m16, r32", ("0F 01 /4 r/m",), Class.REGISTERS, _FREE, b"\x0f\x01\xe0", None, (0x00,),
        "the low word of the virtual CR0", condition=_UMIP),
    Row("B5", "pushf", "", ("9C",), Class.REGISTERS, _FREE, b"\x9c", None, (0x70,),
        "EFLAGS with the virtual IF and IOPL",
        aliases=("pushfd",)),
    Row("B6", "popf", "", ("9D",), Class.REGISTERS, _IF_BY_IOPL, b"\x9d", None, (0x71,),
        "the virtual IF and IOPL change as the virtual CPL allows",
        aliases=("popfd",)),
    Row("C1", "lar", "r, r/m16", ("0F 02 /r r/m",), Class.PROTECTION, _FREE, b"\x0f\x02\xc8", None, (),
        "judged with virtual CPL 0"),
    Row("C2", "lsl", "r, r/m16", ("0F 03 /r r/m",), Class.PROTECTION, _FREE, b"\x0f\x03\xc8", None, (),
        "judged with virtual CPL 0, the limit not cut"),
    Row("C3", "verr", "r/m16", ("0F 00 /4 r/m",), Class.PROTECTION, _FREE, b"\x0f\x00\xe0", None, (),
        "judged with virtual CPL 0"),
    Row("C4", "verw", "r/m16", ("0F 00 /5 r/m",), Class.PROTECTION, _FREE, b"\x0f\x00\xe8", None, (),
        "judged with virtual CPL 0"),
    Row("C5", "pop", "sreg", ("07", "17", "1F", "0F A1", "0F A9"), Class.PROTECTION, _JUDGED, b"\x1f", None, (),
        "as in ring 0"),
    Row("C6", "push", "sreg", ("06", "0E", "16", "1E", "0F A0", "0F A8"), Class.PROTECTION, _FREE, b"\x0e", None, (),
        "RPL 0 shown"),
    Row("C7", "call", "far", ("9A ptr", "FF /3 m"), Class.PROTECTION, _JUDGED, b"\xff\x1d" + _MEM,
        VmxExit(9, "to a TSS or task gate only"), (0x7D,), "as in ring 0",
        aliases=("lcall",)),
    Row("C8", "jmp", "far", ("EA ptr", "FF /5 m"), Class.PROTECTION, _JUDGED, b"\xff\x2d" + _MEM,
        VmxExit(9, "to a TSS or task gate only"), (0x7D,), "as in ring 0",
        aliases=("ljmp",)),
    Row("C9", "int", "n", ("CD ib",), Class.PROTECTION, _everywhere(Native.GATE), b"\xcd\x90", None, (0x75,),
        "through the virtual IDT", "set_trap_table, whose entries have a DPL of their own"),
    Row("C10", "ret", "far", ("CB", "CA iw"), Class.PROTECTION, _JUDGED, b"\xcb", None, (), "as in ring 0",
        aliases=("retf", "lret")),
    Row("C11", "str", "r/m16, r32", ("0F 00 /1 r/m",), Class.PROTECTION, _FREE, b"\x0f\x00\xc8", _selectors(1), (0x69,),
        "the virtual TR", condition=_UMIP),
    Row("C12a", "mov", "r/m, sreg", ("8C /r r/m",), Class.PROTECTION, _FREE, b"\x8c\xc8", None, (), "RPL 0 shown"),
    Row("C12b", "mov", "sreg, r/m16", ("8E /r r/m",), Class.PROTECTION, _JUDGED, b"\x8e\xd8", None, (),
        "as in ring 0", condition="CS, or a register that does not exist: #UD"),
)

_FURTHER_ROWS = (
    Row("X1", "iret", "", ("CF",), Class.SENSITIVE, _IF_BY_IOPL, b"\xcf", None, (0x74,),
        "the virtual IF and IOPL change as the virtual CPL allows", "the iret hypercall where IRET would not do",
        condition="NT set: a task switch",
        aliases=("iretd",)),
    Row("X2", "sysenter", "", ("0F 34",), Class.SENSITIVE, _everywhere(Native.RING0), b"\x0f\x34", None, (),
        "the guest's own MSRs", "int 0x80 through a trap gate; CPUID hides SEP",
        feature="IA32_SYSENTER_CS", without=Native.GP0),
    Row("X3", "syscall", "", ("0F 05",), Class.SENSITIVE, _UNDEFINED, b"\x0f\x05", None, (),
        "by CPUID", condition="AMD, EFER.SCE: legal in 32-bit code; Intel: in 64-bit code only"),
    Row("X4", "lds", "r, m", ("C5 /r m", "C4 /r m", "0F B2 /r m", "0F B4 /r m", "0F B5 /r m"), Class.SENSITIVE, _JUDGED,
        b"\xc5\x15" + _MEM, None, (), "as in ring 0",
        aliases=("les", "lss", "lfs", "lgs")),
    Row("X5", "cpuid", "", ("0F A2",), Class.SENSITIVE, _FREE, b"\x0f\xa2", VmxExit(10), (0x72,), "filtered leaves",
        "CPUID behind the prefix 0F 0B 78 65 6E, from 3.0.2 on", condition="CPUID faulting: #GP(0) outside ring 0"),
    Row("X6", "rdtsc", "", ("0F 31",), Class.SENSITIVE, _FREE, b"\x0f\x31", VmxExit(16, "P1.12"), (0x6E,),
        "virtual time", "the time in shared_info", condition="CR4.TSD: #GP(0) outside ring 0"),
    Row("X7", "rdtscp", "", ("0F 01 F9",), Class.SENSITIVE, _FREE, b"\x0f\x01\xf9",
        VmxExit(51, "P2.3 & P1.12", "#UD unless P2.3"), (0x87,), "virtual time and virtual TSC_AUX",
        condition="CR4.TSD: #GP(0) outside ring 0", feature="RDTSCP"),
    Row("X8", "rdpmc", "", ("0F 33",), Class.SENSITIVE, _PRIVILEGED, b"\x0f\x33", VmxExit(15, "P1.11"), (0x6F,),
        "a virtual counter, or #GP(0)", condition="CR4.PCE: executes in every ring"),
    Row("X9", "xgetbv", "", ("0F 01 D0",), Class.SENSITIVE, _FREE, b"\x0f\x01\xd0", None, (), "the virtual XCR0",
        feature="CR4.OSXSAVE"),
    Row("X10", "int3", "", ("CC",), Class.SENSITIVE, _everywhere(Native.GATE), b"\xcc",
        VmxExit(0, "exception bitmap, bit 3", "type 6"), (0x43,), "through the virtual IDT, vector 3"),
    Row("X11", "into", "", ("CE",), Class.SENSITIVE, _everywhere(Native.GATE), b"\xce",
        VmxExit(0, "exception bitmap, bit 4", "type 6"), (0x44,), "through the virtual IDT, vector 4",
        condition="OF clear: nothing happens"),
    Row("X12", "int1", "", ("F1",), Class.SENSITIVE, _everywhere(Native.DB), b"\xf1",
        VmxExit(0, "exception bitmap, bit 1", "type 5"), (0x88,), "through the virtual IDT, vector 1",
        aliases=("icebp",)),
    Row("X13", "bound", "r, m", ("62 /r m",), Class.SENSITIVE, _everywhere(Native.BR), b"\x62\x05" + _MEM,
        VmxExit(0, "exception bitmap, bit 5", "type 3"), (0x45,), "through the virtual IDT, vector 5"),
    Row("X14", "ud2", "", ("0F 0B",), Class.SENSITIVE, _UNDEFINED, b"\x0f\x0b",
        VmxExit(0, "exception bitmap, bit 6", "type 3"), (0x46,), "through the virtual IDT, vector 6"),
    Row("X15", "pause", "", ("F3 90",), Class.SENSITIVE, _FREE, b"\xf3\x90", VmxExit(40, "P1.30 | P2.10"), (0x77,),
        "nothing"),
    Row("X16", "arpl", "r/m16, r16", ("63 /r r/m",), Class.SENSITIVE, _FREE, b"\x63\xc8", None, (), "as it is"),
    Row("X17", "x87", "or MMX, SSE",
        ("D8 /r r/m", "D9 /r r/m", "DA /r r/m", "DB /r r/m", "DC /r r/m", "DD /r r/m", "DE /r r/m", "DF /r r/m", "9B"),
        Class.SENSITIVE, _FREE, b"\xd9\xee", VmxExit(0, "exception bitmap, bit 7", "type 3"), (0x47,),
        "#NM if the virtual TS or EM is set", "fpu_taskswitch, then #NM with the virtual TS", condition=_TS,
        aliases=("fwait", "wait", "fpu", "mmx", "sse")),
    Row("X18", "rdpid", "r", ("F3 0F C7 /7 r",), Class.SENSITIVE, _FREE, b"\xf3\x0f\xc7\xf8", None, (),
        "the virtual TSC_AUX", feature="RDPID"),
    Row("X19", "rdrand", "r", ("0F C7 /6 r",), Class.SENSITIVE, _FREE, b"\x0f\xc7\xf0", VmxExit(57, "P2.11"), (),
        "a random number; not the same twice", feature="RDRAND"),
    Row("X20", "rdseed", "r", ("0F C7 /7 r",), Class.SENSITIVE, _FREE, b"\x0f\xc7\xf8", VmxExit(61, "P2.16"), (),
        "a random number; not the same twice", feature="RDSEED"),
)

_MASKED_CR0 = VmxExit(28, "CR0 guest/host mask", "type 0, if a masked bit differs from the read shadow")
_MASKED_CR4 = VmxExit(28, "CR4 guest/host mask", "type 0, if a masked bit differs from the read shadow")

_PRIVILEGED_ROWS = (
    Row("P1", "lgdt", "m", ("0F 01 /2 m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x01\x15" + _MEM, _tables(2), (0x6B,),
        "the virtual GDTR", "set_gdt"),
    Row("P2", "lidt", "m", ("0F 01 /3 m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x01\x1d" + _MEM, _tables(3), (0x6A,),
        "the virtual IDTR", "set_trap_table"),
    Row("P3", "lldt", "r/m16", ("0F 00 /2 r/m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x00\xd0", _selectors(2),
        (0x6C,), "the virtual LDTR", "mmuext_op SET_LDT"),
    Row("P4", "ltr", "r/m16", ("0F 00 /3 r/m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x00\xd8", _selectors(3), (0x6D,),
        "the virtual TR, its descriptor busy", "stack_switch"),
    Row("P5", "lmsw", "r/m16", ("0F 01 /6 r/m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x01\xf0",
        VmxExit(28, "CR0 guest/host mask", "type 3, source in the qualification"), (0x10, 0x65),
        "bits 3:0 of the virtual CR0; PE cannot be cleared", "fpu_taskswitch"),
    Row("P6", "clts", "", ("0F 06",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x06",
        VmxExit(28, "CR0 guest/host mask", "type 2, if TS is masked and set in the read shadow"), (0x10,),
        "the virtual TS is cleared", "fpu_taskswitch(0)"),
    Row("P7", "mov", "r32, cr0", ("0F 20 /0",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x20\xc0", None, (0x00,),
        "the virtual CR0", "itself: the trap is cheap enough"),
    Row("P8", "mov", "r32, cr2", ("0F 20 /2",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x20\xd0", None, (0x02,),
        "the virtual CR2", "vcpu_info.arch.cr2"),
    Row("P9", "mov", "r32, cr3", ("0F 20 /3",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x20\xd8",
        VmxExit(28, "P1.16", "type 1"), (0x03,), "the virtual CR3", "what it gave to mmuext_op NEW_BASEPTR"),
    Row("P10", "mov", "r32, cr4", ("0F 20 /4",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x20\xe0", None, (0x04,),
        "the virtual CR4", "itself: the trap is cheap enough"),
    Row("P11", "mov", "cr0, r32", ("0F 22 /0",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x22\xc0", _MASKED_CR0,
        (0x10, 0x65), "the virtual CR0", "fpu_taskswitch"),
    Row("P12", "mov", "cr2, r32", ("0F 22 /2",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x22\xd0", None, (0x12,),
        "the virtual CR2"),
    Row("P13", "mov", "cr3, r32", ("0F 22 /3",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x22\xd8",
        VmxExit(28, "P1.15, unless it is a CR3-target value", "type 0"), (0x13,), "the virtual CR3, TLB flushed",
        "mmuext_op NEW_BASEPTR"),
    Row("P14", "mov", "cr4, r32", ("0F 22 /4",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x22\xe0", _MASKED_CR4, (0x14,),
        "the virtual CR4", "itself: the trap is cheap enough"),
    Row("P15", "mov", "cr1, cr5, cr6 or cr7", tuple(f"0F 2{way} /{n}" for way in (0, 2) for n in (1, 5, 6, 7)),
        Class.PRIVILEGED, _UNDEFINED, b"\x0f\x20\xc8", None, (), "#UD",
        condition="outside ring 0 the SDM does not say whether #UD or #GP(0) comes first"),
    Row("P16", "mov", "r32, dr", ("0F 21 /r",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x21\xf8", _DR_EXIT,
        tuple(range(0x20, 0x28)), "the virtual debug register", "get_debugreg",
        condition="DR7.GD: #DB; CR4.DE: DR4 and DR5 are #UD"),
    Row("P17", "mov", "dr, r32", ("0F 23 /r",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x23\xc0", _DR_EXIT,
        tuple(range(0x30, 0x38)), "the virtual debug register", "set_debugreg",
        condition="DR7.GD: #DB; CR4.DE: DR4 and DR5 are #UD"),
    Row("P18", "invd", "", ("0F 08",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x08", VmxExit(13), (0x76,), "as WBINVD"),
    Row("P19", "wbinvd", "", ("0F 09",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x09", VmxExit(54, "P2.6"), (0x89,),
        "nothing, or a cache flush", "itself: the trap is cheap enough"),
    Row("P20", "invlpg", "m", ("0F 01 /7 m",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x01\x3d" + _MEM,
        VmxExit(14, "P1.9", "qualification: the linear address"), (0x79,), "the translation is forgotten",
        "mmuext_op INVLPG_LOCAL, or a flag of update_va_mapping"),
    Row("P21", "hlt", "", ("F4",), Class.PRIVILEGED, _PRIVILEGED, b"\xf4", VmxExit(12, "P1.7"), (0x78,),
        "wait for an event", "sched_op(block)"),
    Row("P22", "rdmsr", "", ("0F 32",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x32",
        VmxExit(31, "always, or with P1.28 by the MSR bitmap"), (0x7C,), "the virtual MSR, or #GP(0)",
        "itself: the trap is cheap enough"),
    Row("P23", "wrmsr", "", ("0F 30",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x30",
        VmxExit(32, "always, or with P1.28 by the MSR bitmap"), (0x7C,), "the virtual MSR, or #GP(0)",
        "itself: the trap is cheap enough"),
    Row("P26", "monitor", "", ("0F 01 C8",), Class.PRIVILEGED, _outside_ring_0(Native.UD), b"\x0f\x01\xc8",
        VmxExit(39, "P1.29"), (0x8A,), "#UD, or nothing", "nothing: CPUID hides it", feature="MONITOR"),
    Row("P27", "mwait", "", ("0F 01 C9",), Class.PRIVILEGED, _outside_ring_0(Native.UD), b"\x0f\x01\xc9",
        VmxExit(36, "P1.10", "qualification: whether armed"), (0x8B, 0x8C), "#UD, or as HLT",
        "sched_op(block)", feature="MONITOR"),
    Row("P28", "xsetbv", "", ("0F 01 D1",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x01\xd1", VmxExit(55), (0x8D,),
        "the virtual XCR0", feature="CR4.OSXSAVE"),
    Row("P29", "invpcid", "r, m", ("66 0F 38 82 /r m",), Class.PRIVILEGED, _PRIVILEGED,
        b"\x66\x0f\x38\x82\x05" + _MEM, VmxExit(58, "P2.12 & P1.9", "#UD unless P2.12"), (),
        "translations are forgotten", feature="INVPCID"),
    Row("P30", "sysexit", "", ("0F 35",), Class.PRIVILEGED, _PRIVILEGED, b"\x0f\x35", None, (), "as in ring 0",
        condition="IA32_SYSENTER_CS 0: #GP(0) in ring 0 too"),
    Row("P31", "sysret", "", ("0F 07",), Class.PRIVILEGED, _UNDEFINED, b"\x0f\x07", None, (), "#UD",
        condition="64-bit code: legal in ring 0"),
    Row("P32", "swapgs", "", ("0F 01 F8",), Class.PRIVILEGED, _UNDEFINED, b"\x0f\x01\xf8", None, (), "#UD",
        condition="64-bit code: legal in ring 0"),
    Row("P33", "rsm", "", ("0F AA",), Class.PRIVILEGED, _UNDEFINED, b"\x0f\xaa",
        VmxExit(17, "in system-management mode only"), (0x73,), "#UD"),
    Row("P34", "clac", "or stac", ("0F 01 CA", "0F 01 CB"), Class.PRIVILEGED, _outside_ring_0(Native.UD),
        b"\x0f\x01\xca", None, (), "the virtual AC", feature="SMAP",
        aliases=("stac",)),
    Row("P36", "wbnoinvd", "", ("F3 0F 09",), Class.PRIVILEGED, _PRIVILEGED, b"\xf3\x0f\x09", VmxExit(54, "P2.6"),
        (0x89,), "nothing, or a cache flush", condition="a CPU that does not know it executes WBINVD"),
    Row("P37", "xsaves", "m, and xrstors m", ("0F C7 /5 m", "0F C7 /3 m"), Class.PRIVILEGED, _PRIVILEGED,
        b"\x0f\xc7\x2d" + _MEM, VmxExit(63, "P2.20 and the XSS bitmap", "XRSTORS: 64; #UD unless P2.20"), (),
        "as in ring 0", feature="XSAVES",
        aliases=("xrstors",)),
    Row("P38", "encls", "", ("0F 01 CF",), Class.PRIVILEGED, _outside_ring_0(Native.UD), b"\x0f\x01\xcf",
        VmxExit(60, "P2.15 and the ENCLS bitmap"), (), "#UD", feature="SGX"),
    Row("P39", "mov", "tr", ("0F 24 /r", "0F 26 /r"), Class.PRIVILEGED, _UNDEFINED, b"\x0f\x24\xc0", None, (), "#UD",
        condition="until the 486: privileged"),
)

_IOPL_ROWS = (
    Row("I1", "cli", "", ("FA",), Class.IOPL, _BY_IOPL, b"\xfa", None, (), "the virtual IF is cleared",
        "evtchn_upcall_mask := 1", condition="CR4.PVI in ring 3: VIF is cleared"),
    Row("I2", "sti", "", ("FB",), Class.IOPL, _BY_IOPL, b"\xfb", None, (),
        "the virtual IF is set, an event that waits comes after the next instruction",
        "evtchn_upcall_mask := 0, then look for pending events", condition="CR4.PVI in ring 3: VIF is set"),
    Row("I3", "in", "al/ax/eax, imm8", ("E4 ib", "E5 ib"), Class.IOPL, _BY_BITMAP, b"\xe4\x80", _IO_EXIT, _IO_SVM,
        "the virtual device", "front ends and event channels"),
    Row("I4", "in", "al/ax/eax, dx", ("EC", "ED"), Class.IOPL, _BY_BITMAP, b"\xec", _IO_EXIT, _IO_SVM,
        "the virtual device", "front ends and event channels"),
    Row("I5", "out", "imm8/dx, al/ax/eax", ("E6 ib", "E7 ib", "EE", "EF"), Class.IOPL, _BY_BITMAP, b"\xe6\x80",
        _IO_EXIT, _IO_SVM, "the virtual device", "front ends and event channels"),
    Row("I6", "ins", "es:[edi], dx", ("6C", "6D"), Class.IOPL, _BY_BITMAP, b"\x6c", _STRING_IO_EXIT, _IO_SVM,
        "the virtual device, once an iteration", "front ends and event channels",
        aliases=("insb", "insw", "insd")),
    Row("I7", "outs", "dx, ds:[esi]", ("6E", "6F"), Class.IOPL, _BY_BITMAP, b"\x6e", _STRING_IO_EXIT, _IO_SVM,
        "the virtual device, once an iteration", "front ends and event channels",
        aliases=("outsb", "outsw", "outsd")),
    Row("I8", "vm86", "popf, pushf, int n, iret", ("9D", "9C", "CD ib", "CF"), Class.IOPL,
        Natively(Native.NONE, Native.NONE, Native.NONE, Native.GP0, Native.OK), b"", None, (0x70, 0x71, 0x74, 0x75),
        "a VM86 monitor", condition="CR4.VME: VIF instead of #GP(0)"),
)


def _vmx(name: str, mnemonic: str, operands: str, encoding: str, sample: bytes, exit_: VmxExit) -> Row:
    return Row(name, mnemonic, operands, (encoding,), Class.VMX, _UNDEFINED, sample, exit_, (),
               "#UD, or an exit to the guest's own hypervisor", condition="in VMX operation: SDM 3 chapter 30")


def _svm(name: str, mnemonic: str, encoding: str, code: int, condition: str = _SVME) -> Row:
    return Row(name, mnemonic, "", (encoding,), Class.SVM, _UNDEFINED, bytes.fromhex(encoding), None, (code,), "#UD",
               condition=condition)


_VIRTUALIZATION_ROWS = (
    _vmx("V1", "vmcall", "", "0F 01 C1", b"\x0f\x01\xc1", VmxExit(18, note="in every ring")),
    _vmx("V2", "vmlaunch", "", "0F 01 C2", b"\x0f\x01\xc2", VmxExit(20, note="before the privilege check")),
    _vmx("V3", "vmresume", "", "0F 01 C3", b"\x0f\x01\xc3", VmxExit(24, note="before the privilege check")),
    _vmx("V4", "vmxoff", "", "0F 01 C4", b"\x0f\x01\xc4", VmxExit(26, note="before the privilege check")),
    _vmx("V5", "vmptrld", "m64", "0F C7 /6 m", b"\x0f\xc7\x35" + _MEM, VmxExit(21)),
    _vmx("V6", "vmptrst", "m64", "0F C7 /7 m", b"\x0f\xc7\x3d" + _MEM, VmxExit(22)),
    _vmx("V7", "vmclear", "m64", "66 0F C7 /6 m", b"\x66\x0f\xc7\x35" + _MEM, VmxExit(19)),
    _vmx("V8", "vmxon", "m64", "F3 0F C7 /6 m", b"\xf3\x0f\xc7\x35" + _MEM, VmxExit(27)),
    _vmx("V9", "vmread", "r/m, r", "0F 78 /r r/m", b"\x0f\x78\xc8", VmxExit(23, "unless VMCS shadowing answers")),
    _vmx("V10", "vmwrite", "r, r/m", "0F 79 /r r/m", b"\x0f\x79\xc8", VmxExit(25, "unless VMCS shadowing answers")),
    _vmx("V11", "invept", "r, m", "66 0F 38 80 /r m", b"\x66\x0f\x38\x80\x05" + _MEM, VmxExit(50)),
    _vmx("V12", "invvpid", "r, m", "66 0F 38 81 /r m", b"\x66\x0f\x38\x81\x05" + _MEM, VmxExit(53)),
    _vmx("V13", "vmfunc", "", "0F 01 D4", b"\x0f\x01\xd4", VmxExit(59, "P2.13", "if it fails; #UD unless P2.13")),
    _svm("S1", "vmrun", "0F 01 D8", 0x80),
    _svm("S2", "vmmcall", "0F 01 D9", 0x81, "in an SVM guest that intercepts it: an exit, in every ring"),
    _svm("S3", "vmload", "0F 01 DA", 0x82),
    _svm("S4", "vmsave", "0F 01 DB", 0x83),
    _svm("S5", "stgi", "0F 01 DC", 0x84),
    _svm("S6", "clgi", "0F 01 DD", 0x85),
    _svm("S7", "skinit", "0F 01 DE", 0x86),
    _svm("S8", "invlpga", "0F 01 DF", 0x7A),
    Row("P35", "getsec", "", ("0F 37",), Class.SMX, _outside_ring_0(Native.UD), b"\x0f\x37", VmxExit(11, "CR4.SMXE"),
        (), "#UD", feature="CR4.SMXE"),
)

ROWS: tuple[Row, ...] = (*_SILENT_ROWS, *_FURTHER_ROWS, *_PRIVILEGED_ROWS, *_IOPL_ROWS, *_VIRTUALIZATION_ROWS)
"""Every instruction that a hypervisor has to think about, in the order of the classes."""

EXIT_REASONS: dict[int, str] = {
    0: "exception or NMI", 9: "task switch", 10: "CPUID", 11: "GETSEC", 12: "HLT", 13: "INVD", 14: "INVLPG",
    15: "RDPMC", 16: "RDTSC", 17: "RSM", 18: "VMCALL", 19: "VMCLEAR", 20: "VMLAUNCH", 21: "VMPTRLD", 22: "VMPTRST",
    23: "VMREAD", 24: "VMRESUME", 25: "VMWRITE", 26: "VMXOFF", 27: "VMXON", 28: "control-register access",
    29: "MOV DR", 30: "I/O instruction", 31: "RDMSR", 32: "WRMSR", 36: "MWAIT", 39: "MONITOR", 40: "PAUSE",
    46: "access to GDTR or IDTR", 47: "access to LDTR or TR", 50: "INVEPT", 51: "RDTSCP", 53: "INVVPID", 54: "WBINVD",
    55: "XSETBV", 57: "RDRAND", 58: "INVPCID", 59: "VMFUNC", 60: "ENCLS", 61: "RDSEED", 63: "XSAVES", 64: "XRSTORS",
}  # fmt: skip
"""Basic exit reasons that an instruction causes (SDM 3 appendix C)."""

CONTROLS: dict[str, str] = {
    "P1.7": "HLT exiting", "P1.9": "INVLPG exiting", "P1.10": "MWAIT exiting", "P1.11": "RDPMC exiting",
    "P1.12": "RDTSC exiting", "P1.15": "CR3-load exiting", "P1.16": "CR3-store exiting", "P1.23": "MOV-DR exiting",
    "P1.24": "unconditional I/O exiting", "P1.25": "use I/O bitmaps", "P1.28": "use MSR bitmaps",
    "P1.29": "MONITOR exiting", "P1.30": "PAUSE exiting", "P2.2": "descriptor-table exiting", "P2.3": "enable RDTSCP",
    "P2.6": "WBINVD exiting", "P2.10": "PAUSE-loop exiting", "P2.11": "RDRAND exiting",
    "P2.12": "enable INVPCID", "P2.13": "enable VM functions",
    "P2.16": "RDSEED exiting",
    "P2.15": "enable ENCLS exiting", "P2.20": "enable XSAVES/XRSTORS",
}  # fmt: skip
"""The control bits that `VmxExit.control` names (SDM 3 tables 24-6 and 24-7)."""


def svm_intercept(code: int) -> str:
    """Which bit of the VMCB asks for an SVM exit: `G1.7` is bit 7 of the first general word."""
    for first, name in ((0x80, "G2."), (0x60, "G1."), (0x40, "exceptions."), (0x30, "DRw."), (0x20, "DRr."),
                        (0x10, "CRw."), (0x00, "CRr.")):
        if code >= first:
            return f"{name}{code - first}"
    raise ValueError(code)


# -- Finding the row of an instruction


class Decoded(Protocol):
    """What `find` looks at. `opcode` as 0x06, 0x0F06 or 0x0F3882; `prefixes` are the raw bytes in order."""

    @property
    def opcode(self) -> int: ...
    @property
    def modrm(self) -> int | None: ...
    @property
    def prefixes(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Pattern:
    """An encoding to compare with: None where anything will do."""

    prefix: int | None
    opcode: int
    modrm: int | None
    reg: int | None
    in_memory: bool | None

    def fits(self, it: Decoded) -> bool:
        """Whether an instruction has this encoding."""
        modrm = it.modrm
        if it.opcode != self.opcode or (self.prefix is not None and self.prefix not in it.prefixes):
            return False
        if modrm is None:
            return self.modrm is None and self.reg is None and self.in_memory is None
        return ((self.modrm is None or self.modrm == modrm)
                and (self.reg is None or self.reg == modrm >> 3 & 7)
                and (self.in_memory is None or self.in_memory == (modrm >> 6 != 3)))


_PREFIXES = (0x66, 0xF3)


def parse(encoding: str) -> Pattern:
    """`66 0F C7 /6 m` and the like as a pattern."""
    tokens = encoding.split()
    prefix = int(tokens[0], 16) if int(tokens[0], 16) in _PREFIXES else None
    at = 0 if prefix is None else 1
    size = 1 if tokens[at] != "0F" else 3 if tokens[at + 1] == "38" else 2
    opcode = int("".join(tokens[at : at + size]), 16)
    modrm = reg = in_memory = None
    for token in tokens[at + size :]:
        if token == "m" or token == "r":
            in_memory = token == "m"
        elif token[0] == "/" and token[1].isdigit():
            reg = int(token[1])
        elif len(token) == 2 and token[0] in "0123456789ABCDEF":
            modrm = int(token, 16)
    return Pattern(prefix, opcode, modrm, reg, in_memory)


def _patterns(rows: Iterable[Row]) -> list[tuple[Pattern, Row]]:
    """Those that ask for a prefix first: what they name is another instruction without it."""
    pairs = [(parse(encoding), row) for row in rows if row.sample for encoding in row.encodings]
    return sorted(pairs, key=lambda pair: pair[0].prefix is None)


_PATTERNS = _patterns(ROWS)


def find(instruction: Decoded) -> Row | None:
    """The row of a decoded instruction; None for one that a hypervisor need not care about."""
    return next((row for pattern, row in _PATTERNS if pattern.fits(instruction)), None)
