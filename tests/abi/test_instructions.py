"""The table of sensitive instructions, held against the hypervisor's own tables and against the CPU."""

from __future__ import annotations

import struct
from collections import Counter

import pytest

from harness.abi.instructions import CONTROLS, EXIT_REASONS, ROWS, Class, Native, Row, find, parse, svm_intercept
from harness.abi.x86 import Gpr, Seg, Vector
from harness.code.decoder import Decoder
from harness.code.sensitive import ROWS as SENSITIVE
from harness.domain.exits import Reason
from harness.domain.registers import SegmentCache
from harness.machine import Machine
from harness.pv import emulate, silent

SAMPLES = [pytest.param(row, id=row.id) for row in ROWS if row.sample]
REFUSED_BY_DECODER = {"P15", "P39"}
"""MOV CR1 and MOV TR: no instruction at all on silicon."""


# -- The table in itself


def test_ids_are_unique():
    assert [row_id for row_id, count in Counter(row.id for row in ROWS).items() if count > 1] == []


@pytest.mark.parametrize("row", SAMPLES)
def test_a_sample_is_one_instruction_and_leads_back_to_its_row(row):
    decoded = Decoder().decode(0x1000, row.sample.ljust(15, b"\x90"))
    if row.id in REFUSED_BY_DECODER:
        assert decoded is None
        return
    assert decoded is not None
    assert decoded.length == len(row.sample)
    assert find(decoded) is row


@pytest.mark.parametrize(("text", "row_id"), [
    ("f390", "X15"), ("f30f09", "P36"), ("0f09", "P19"), ("0fc730", "V5"), ("660fc730", "V7"), ("f30fc730", "V8"),
    ("0fc738", "V6"), ("f30fc7f8", "X18"), ("0f01c1", "V1"), ("0f0100", "B1"), ("0f01d8", "S1"), ("0f013f", "P20"),
    ("2e0f06", "P6"), ("660fa1", "C5"), ("ff18", "C7"), ("ff28", "C8"), ("0f22c0", "P11"), ("660f388100", "V12"),
])  # fmt: skip
def test_prefixes_and_modrm_tell_instructions_apart(text, row_id):
    decoded = Decoder().decode(0, bytes.fromhex(text).ljust(15, b"\0"))
    assert decoded is not None
    found = find(decoded)
    assert found is not None
    assert found.id == row_id


@pytest.mark.parametrize("text", ["90", "ff10", "0fc708", "89c0", "0f1f00", "c3", "58", "e800000000"])
def test_what_is_not_sensitive_has_no_row(text):
    decoded = Decoder().decode(0, bytes.fromhex(text).ljust(15, b"\0"))
    assert decoded is not None
    assert find(decoded) is None


def test_exit_reasons_and_controls_have_names():
    for row in ROWS:
        if row.vmx:
            assert row.vmx.reason in EXIT_REASONS, row.id
            for word in row.vmx.control.replace(",", " ").split():
                assert word in CONTROLS or not word.startswith(("P1.", "P2.")), row.id


def test_robin_and_irvine_list_18_mnemonics():
    classes = {(row.mnemonic, row.category) for row in ROWS}
    assert {m for m, c in classes if c is Class.REGISTERS} == {"sgdt", "sidt", "sldt", "smsw", "pushf", "popf"}
    assert {m for m, c in classes if c is Class.PROTECTION} == {
        "lar", "lsl", "verr", "verw", "pop", "push", "call", "jmp", "int", "ret", "str", "mov"}


@pytest.mark.parametrize(("code", "bit"), [
    (0x00, "CRr.0"), (0x13, "CRw.3"), (0x27, "DRr.7"), (0x30, "DRw.0"), (0x47, "exceptions.7"), (0x67, "G1.7"),
    (0x7C, "G1.28"), (0x89, "G2.9"),
])  # fmt: skip
def test_svm_exit_codes_name_their_intercept(code, bit):
    assert svm_intercept(code) == bit


# -- Against the hypervisor's tables


def _of(opcode: int, reg: int | None) -> list[Row]:
    return [row for row in ROWS for pattern in map(parse, row.encodings)
            if pattern.opcode == opcode and pattern.modrm is None and (reg is None or pattern.reg in (None, reg))]


@pytest.mark.parametrize("opcode", [pytest.param(n, id=f"{n:x}") for n in (*emulate.TABLE, *emulate.FULL)])
def test_what_is_emulated_is_a_row_that_faults_in_ring_1(opcode):
    table = [*((emulate.TABLE[opcode],) if opcode in emulate.TABLE else ()), *emulate.FULL.get(opcode, ())]
    for reg in {reg for entry in table for reg in entry.regs or (None,)}:
        rows = _of(opcode, reg)
        assert rows, f"{opcode:x} /{reg}"
        assert all(row.native.ring1_iopl0 in (Native.GP0, Native.BITMAP, Native.UD) for row in rows)


@pytest.mark.parametrize("kind", silent.TABLE)
def test_what_is_silent_is_a_row_that_does_not_fault_in_ring_1(kind):
    for entry, opcode, regs, _operand in SENSITIVE:
        if entry == kind:
            for reg in regs or (None,):
                rows = _of(opcode, reg)
                assert rows, f"{opcode:x} /{reg}"
                assert all(row.native.ring1_iopl0 in (Native.OK, Native.DROPS, Native.JUDGED)
                           for row in rows if row.sample)


def test_every_robin_and_irvine_row_but_int_n_is_silent_here_too():
    listed = {row.id for row in ROWS if row.category in (Class.REGISTERS, Class.PROTECTION)}
    known = {row.id for kind, opcode, regs, _ in SENSITIVE if kind in silent.TABLE
             for reg in regs or (None,) for row in _of(opcode, reg)}
    assert listed - known == {"C9"}


# -- Against the CPU

CODE, STACK, MEMORY, GDT, TSS = 0x1000, 0x8000, 0x5000, 0x6000, 0x7000
SELECTORS = {1: (0x09, 0x11), 3: (0x1B, 0x23)}
MARK = b"\xcd\x81"

# What stands on the stack, and where a far pointer leads, for what needs it. {cs}, {ss}: the ring's own selectors.
_FRAME_ENDS = CODE + 0x100
STACKS = {"C5": ("ss",), "C10": (_FRAME_ENDS, "cs"), "X1": (_FRAME_ENDS, "cs", 2), "B6": (2,)}
POINTERS = {"C7": "cs", "C8": "cs", "X4": "ss"}


@pytest.fixture(scope="module")
def machine():
    made = Machine(1 << 20)
    made.nested.grant(0, 256)
    flat = 0x00CF_0000_0000_FFFF
    descriptors = [0, *(flat | access << 40 for access in (0xBB, 0xB3, 0xFB, 0xF3))]
    made.ram.write(GDT, struct.pack("<5Q", *descriptors))
    made.ram.write(TSS + 102, (0x8000).to_bytes(2, "little"))
    made.regs.load_gdtr(GDT, 39)
    made.regs.load_idtr(0, 0)
    made.regs.load_tr(SegmentCache(0x28, TSS, 103, 0x8900))
    yield made
    made.close()


def _execute(machine: Machine, row: Row, ring: int, iopl: int) -> str:
    """What the machine reports of a row's sample in a ring."""
    cs, ss = SELECTORS[ring]
    chosen = {"cs": cs, "ss": ss}
    code = SegmentCache(cs, 0, 0xFFFFFFFF, 0x00CF9B00 | ring << 13)
    data = SegmentCache(ss, 0, 0xFFFFFFFF, 0x00CF9300 | ring << 13)
    regs, ram = machine.regs, machine.ram
    ram.write(CODE, row.sample + MARK)
    ram.write(_FRAME_ENDS, MARK)
    ram.write(MEMORY, struct.pack("<IH", _FRAME_ENDS, chosen.get(POINTERS.get(row.id, ""), 0)) + bytes(16))
    ram.write(STACK, b"".join(struct.pack("<I", chosen.get(w, w)) for w in STACKS.get(row.id, ())))
    regs.cr0 = 0x11
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        regs.load_segment(seg, data)
    for n in range(8):
        regs.gpr[n] = 0
    if row.id == "X13":
        ram.write(MEMORY, struct.pack("<ii", 1, 2))
    if row.id == "C12b":
        regs.gpr[Gpr.EAX] = ss
    overflow = 0x800 if row.id == "X11" else 0
    regs.enter(code, CODE, data, STACK, 2 | iopl << 12 | overflow)
    seen: list[str] = []

    def handle(exit_) -> bool:
        told = _told(machine, row, exit_)
        if told is None:
            return True
        seen.append(told)
        machine.stop()
        return False

    machine.run(handle)
    return seen[0]


def _told(machine: Machine, row: Row, exit_) -> str | None:
    """In the codes of the table; None: let the CPU execute what was only found by the scan."""
    match exit_.reason:
        case Reason.EXCEPTION if exit_.vector == Vector.GP:
            return Native.GP0 if exit_.error_code == 0 else f"#GP({exit_.error_code:#x})"
        case Reason.EXCEPTION:
            return {Vector.UD: Native.UD, Vector.DB: Native.DB, Vector.BR: Native.BR}.get(exit_.vector, "other")
        case Reason.SOFTWARE_INT if exit_.vector == 0x81:
            return Native.OK
        case Reason.SOFTWARE_INT:
            return Native.GATE
        case Reason.CPUID | Reason.RDTSC:
            return Native.OK
        case Reason.RDTSCP:
            return Native.UD  # CPUID does not announce it, and policy makes it #UD
        case Reason.SCANNED if exit_.kind == "smsw":
            return Native.OK
        case Reason.SCANNED if exit_.kind == "io":
            return Native.OK
        case Reason.SCANNED:
            return None
    return f"{exit_.reason.name} {exit_.vector:#x} at {machine.regs.eip:#x}, {row.form}"


SAME_ON_THE_CPU = {Native.DROPS: Native.OK, Native.KEEPS_IOPL: Native.OK, Native.JUDGED: Native.OK,
                   Native.BITMAP: Native.GP0}
"""What a run without a fault cannot tell apart; the bitmap here lies beyond the TSS's limit and allows nothing."""
UNSPECIFIED = {"P15": Native.GP0}
"""Outside ring 0 the SDM does not say which comes first, #UD or #GP(0) (observed on Unicorn 2.1.4: #GP(0))."""


@pytest.mark.parametrize(("ring", "iopl"), [(1, 0), (1, 1), (3, 0), (3, 3)])
@pytest.mark.parametrize("row", SAMPLES)
def test_the_cpu_does_what_the_table_says(machine, row, ring, iopl):
    said = row.without if row.feature else row.native.at(ring, iopl)
    expected = UNSPECIFIED.get(row.id, SAME_ON_THE_CPU.get(said, said))
    assert _execute(machine, row, ring, iopl) == expected


@pytest.mark.parametrize(("ring", "iopl", "loaded"), [(1, 0, False), (1, 1, True), (3, 0, False), (3, 3, True)])
def test_popf_loads_if_only_where_the_table_says_so(machine, ring, iopl, loaded):
    row = next(row for row in ROWS if row.mnemonic == "popf")
    assert (row.native.at(ring, iopl) is Native.KEEPS_IOPL) == loaded
    STACKS["B6"] = (0x202,)
    try:
        _execute(machine, row, ring, iopl)
    finally:
        STACKS["B6"] = (2,)
    assert (machine.regs.eflags & 0x200 != 0) == loaded
    assert machine.regs.eflags >> 12 & 3 == iopl
