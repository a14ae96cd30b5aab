"""What an instruction does in each ring, under Xen 3.0, under `--policy full` and under VT-x.

Native outcomes are rows of `abi/instructions.py`. What the hypervisor does is not written down here: it is looked up
in the tables that it runs on (`pv/emulate.py`, `pv/silent.py`), or asked of `pv/traps.py` with a CPU that executes
nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.abi import xen
from harness.abi.instructions import CONTROLS, EXIT_REASONS, ROWS, Class, Native, Row, find, svm_intercept
from harness.abi.svm import EXIT_EXCEPTION
from harness.abi.x86 import EFLAGS_FIXED, PTE_P, PTE_PS, PTE_RW, PTE_US, Gpr, Vector
from harness.code.assembler import AssemblyError, assemble
from harness.code.decoder import Decoder, Instruction, TruncatedError, mnemonics
from harness.code.fields import read_fields
from harness.code.sensitive import classify, lock_is_illegal
from harness.domain.cpu import PlainCpu
from harness.domain.exits import Exit, Reason
from harness.domain.outcome import NATIVE, Inject, Outcome
from harness.domain.registers import PlainRegisters
from harness.pv import emulate, silent, traps
from harness.pv.hypercalls import ROWS as HYPERCALLS
from harness.pv.state import POLICY_FULL, POLICY_XEN, Domain, Trap, Vcpu
from harness.report.layout import table

INNOCUOUS = "innocuous: the same in every ring, and nothing of the machine's state shows or changes"
_HEX = re.compile(r"(?:0x)?((?:[0-9a-f]{2}\s*)+)\Z")
_VECTOR_REGISTER = re.compile(r"\bx?mm[0-7]\b")
_FLOATING = next(row for row in ROWS if row.mnemonic == "x87")
_MOST_BLOCKS = 3
_CODE, _DIRECTORY, _STACK, _MEMORY = 0x1000, 0x2000, 0x8000, 0x10000
_TRACES = {Reason.CPUID: 0x0FA2, Reason.RDTSC: 0x0F31}
_MOV_DR = 29
"""Exits before privilege is checked (SDM 3 section 25.1.3)."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is explained: a row, or none where `said` is all there is to say; bytes and their decoding, if any."""

    title: str
    row: Row | None
    raw: bytes = b""
    instruction: Instruction | None = None
    said: str = INNOCUOUS


def explain(question: str) -> str:
    """The explanation of a mnemonic (`clts`, `mov cr0`, `int 0x82`) or of bytes in hex (`0f06`), as lines of text.

    Raises ValueError, with close matches, for what is neither.
    """
    subjects = _subjects(" ".join(question.lower().replace(",", ", ").split()))
    if len(subjects) > _MOST_BLOCKS:
        return "\n".join(_overview(subjects))
    return "\n\n".join("\n".join(_block(subject)) for subject in subjects)


# -- What is asked for


def _subjects(text: str) -> list[_Subject]:
    rows = [row for row in ROWS if text == row.mnemonic or text in row.aliases]
    if rows:
        return [_of_row(row) for row in rows]
    known = mnemonics()
    word, _, operands = text.partition(" ")
    hexadecimal = _HEX.match(text)
    if hexadecimal and text not in known:
        return [_of_bytes(bytes.fromhex(hexadecimal[1]))]
    code = _assembled(text)
    if code:
        return [_of_bytes(code)]
    rows = [row for row in ROWS if row.mnemonic == word and set(operands.split(", ")) <= set(row.operands.split(", "))]
    if rows:
        return [_of_row(row) for row in rows]
    if text in known:
        return [replace(_of_row(_FLOATING), title=text) if _touches_fpu(text) else _Subject(text, None)]
    raise ValueError(_unknown(text, word, known))


def _unknown(text: str, word: str, known: frozenset[str]) -> str:
    ours = {name for row in ROWS for name in (row.mnemonic, *row.aliases)}
    close = difflib.get_close_matches(word, sorted(ours), 3) or difflib.get_close_matches(word, sorted(known), 3)
    if word in ours | known:
        return f"'{text}' is no form of {word}; try the mnemonic alone, or bytes in hex"
    return f"no instruction '{text}'" + (f"; close: {', '.join(close)}" if close else "")


def _assembled(text: str) -> bytes:
    if not text or not (text[0].isalpha()):
        return b""
    try:
        return assemble(text, base=_CODE).code
    except AssemblyError:
        return b""


def _of_row(row: Row) -> _Subject:
    return _Subject(row.form, row, row.sample, _decoded(row.sample))


def _of_bytes(raw: bytes) -> _Subject:
    """Bytes that hold one instruction. What silicon refuses may still have a row, such as MOV from CR1."""
    if lock_is_illegal(raw):
        return _Subject(raw.hex(" "), None, said="#UD in every ring, before any other check: LOCK may not stand here")
    instruction = _decoded(raw)
    if instruction is not None and instruction.length != len(raw):
        raise ValueError(f"{raw.hex(' ')}: more than one instruction; the first is {instruction.text}")
    try:
        row = find(instruction or read_fields(raw, 32))
    except TruncatedError:
        raise ValueError(f"{raw.hex(' ')}: ends within an instruction") from None
    if instruction is None and row is None:
        return _Subject(raw.hex(" "), None, said="#UD in every ring: no such instruction")
    if row is None and instruction is not None and _touches_fpu(instruction.text):
        row = _FLOATING
    return _Subject(instruction.text if instruction else row.form if row else "", row, raw, instruction)


def _touches_fpu(text: str) -> bool:
    """Whether CR0.TS holds an instruction back: x87 mnemonics begin with F, and MMX and SSE ones name a register."""
    return text.startswith("f") or _VECTOR_REGISTER.search(text) is not None


def _decoded(raw: bytes) -> Instruction | None:
    try:
        return Decoder().decode(_CODE, raw) if raw else None
    except TruncatedError:
        raise ValueError(f"{raw.hex(' ')}: ends within an instruction") from None


# -- How it is told


def _overview(subjects: Sequence[_Subject]) -> list[str]:
    rows = [(subject.title, _without_remark(subject.row.category if subject.row else ""),
             _without_remark(_paravirtual(subject, 1, POLICY_XEN))) for subject in subjects]
    example = next((subject.instruction.text for subject in subjects if subject.instruction), "")
    return [*table([("form", "class", "Xen 3.0, ring 1"), *rows]), "", f"Say which, such as: {example}"]


def _without_remark(text: str) -> str:
    return text.partition(" (")[0]


def _block(subject: _Subject) -> list[str]:
    row = subject.row
    shown = f"  ({subject.raw.hex(' ')})" if subject.raw and (row is None or subject.title != row.form) else ""
    if row is None:
        return [subject.title + shown, f"  {subject.said}"]
    lines = [("class", str(row.category)), ("encodings", ", ".join(row.encodings)), *_native(row), *_policies(subject),
             *_named_once("VT-x", _vmx(row)), ("SVM", _svm(row)), ("virtual result", row.virtual),
             ("ported kernel", _ported(subject))]
    return [subject.title + shown, *(f"  {line}" for line in table([line for line in lines if line[1]]))]


def _named_once(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(name if n == 0 else "", text) for n, text in enumerate(texts)]


def _policies(subject: _Subject) -> list[tuple[str, str]]:
    """Rings with one answer share a line; so does a policy with nothing of its own."""
    lines: list[tuple[str, str]] = []
    before: tuple[str, str] | None = None
    for policy, title in ((POLICY_XEN, "Xen 3.0"), (POLICY_FULL, "--policy full")):
        answers = _paravirtual(subject, 1, policy), _paravirtual(subject, 3, policy)
        if answers == before:
            lines.append((title, "the same"))
        elif answers[0] == answers[1]:
            lines.append((title, answers[0]))
        else:
            lines += [(f"{title}, ring 1", answers[0]), (f"{title}, ring 3", answers[1])]
        before = answers
    return lines


def _native(row: Row) -> list[tuple[str, str]]:
    """Rings with one outcome share a line."""
    native = row.native
    places = [("ring 0", native.ring0), ("ring 1, IOPL 0", native.ring1_iopl0), ("ring 1, IOPL 1", native.ring1_iopl1),
              ("ring 3, IOPL 0", native.ring3_iopl0), ("ring 3, IOPL 3", native.ring3_iopl3)]
    if len({outcome for _, outcome in places}) == 1:
        lines = [("every ring", native.ring0)]
    elif native.ring1_iopl0 is native.ring1_iopl1 and native.ring3_iopl0 is native.ring3_iopl3:
        lines = [places[0], ("ring 1", native.ring1_iopl0), ("ring 3", native.ring3_iopl0)]
    else:
        lines = places
    needs = f"{row.without.value}, without {row.feature}" if row.feature else ""
    return [*((where, outcome.value) for where, outcome in lines), ("or", needs), ("condition", row.condition)]


def _vmx(row: Row) -> list[str]:
    if row.vmx is None:
        return ["no exit"]
    exit_ = row.vmx
    control = re.sub(r"P[12]\.\d+", lambda match: f"{CONTROLS[match[0]]} ({match[0]})", exit_.control)
    control = control.replace(" & ", " and ").replace(" | ", " or ") or "always"
    lines = [f"exit {exit_.reason} ({EXIT_REASONS[exit_.reason]}): {control}", exit_.note]
    if row.native.ring3_iopl0 is Native.GP0 and row.category is Class.PRIVILEGED and row.vmx.reason != _MOV_DR:
        lines.append("outside ring 0 the fault comes first")
    return list(filter(None, lines))


def _svm(row: Row) -> str:
    if not row.svm:
        return "no intercept"
    first, last = row.svm[0], row.svm[-1]
    if len(row.svm) == last - first + 1 > 1:
        return f"exits {first:#04x} to {last:#04x} ({svm_intercept(first)} and up)"
    return " or ".join(f"exit {code:#04x} ({svm_intercept(code)})" for code in row.svm)


def _ported(subject: _Subject) -> str:
    kind = classify(subject.instruction) if subject.instruction else None
    if kind in silent.TABLE:
        return silent.TABLE[kind].instead
    return subject.row.ported if subject.row else ""


# -- What the hypervisor does, asked of the hypervisor


def _paravirtual(subject: _Subject, ring: int, policy: str) -> str:
    """What comes of it in a ring; the hardware's IOPL is always 0 there."""
    row, it = subject.row, subject.instruction
    assert row is not None
    outcome = row.without if row.feature else row.native.at(ring, 0)
    if outcome is Native.UD:
        return _asked(subject, ring, policy, Exit(Reason.EXCEPTION, Vector.UD))
    if it is None:
        return "the guest is crashed: the engine cannot keep ring 1 out of VM86 mode, where silicon would"
    if outcome is Native.GATE:
        return _gate(subject, ring, policy, {0xCC: Vector.BP, 0xCE: Vector.OF}.get(it.opcode, it.immediate or 0))
    if outcome in (Native.DB, Native.BR):
        vector = Vector.DB if outcome is Native.DB else Vector.BR
        return _asked(subject, ring, policy, Exit(Reason.EXCEPTION, vector, length=it.length))
    if outcome in (Native.GP0, Native.BITMAP):
        return _emulated(it, ring, policy)
    for reason, opcode in _TRACES.items():
        if it.opcode == opcode:
            return _asked(subject, ring, policy, Exit(reason))
    return _left_alone(subject, it, ring, policy)


def _emulated(it: Instruction, ring: int, policy: str) -> str:
    """#GP(0): the row of `pv/emulate.py`, if there is one for this ring."""
    row = emulate.row_for(_vcpu(it.raw, ring, policy), it)
    if row is None or (row.kernel_only and ring != 1):
        return "#GP(0), bounced to the guest's handler"
    return f"#GP(0), emulated by {_named(row.emulate)}"


def _left_alone(subject: _Subject, it: Instruction, ring: int, policy: str) -> str:
    """No fault: only `pv/silent.py` may correct it."""
    kind = classify(it)
    row = silent.TABLE.get(kind or "")
    if row is not None and kind is not None and policy == POLICY_FULL and row.full:
        if silent.sensitive(_vcpu(it.raw, ring, policy), kind, it) is not NATIVE:
            return f"corrected by {_named(row.full)}"
        return f"left to the CPU; {row.full.__name__} is for ring 1 and what leaks there"
    if subject.row and EXIT_EXCEPTION + Vector.NM in subject.row.svm:
        return "left to the CPU; #NM is " + _asked(subject, ring, policy, Exit(Reason.EXCEPTION, Vector.NM))
    return "left to the CPU, and silent" if row else "left to the CPU"


def _gate(subject: _Subject, ring: int, policy: str, vector: int) -> str:
    """A software interrupt: asked twice, with the guest's own gate open to the ring and closed to it."""
    exit_ = Exit(Reason.SOFTWARE_INT, vector, length=len(subject.raw))
    opened, closed = (_asked(subject, ring, policy, exit_, dpl) for dpl in (3, 0))
    return opened if opened == closed else f"{opened}; {closed.partition(',')[0]} if the gate's DPL is below the ring"


def _asked(subject: _Subject, ring: int, policy: str, exit_: Exit, dpl: int = 3) -> str:
    vcpu = _vcpu(subject.raw, ring, policy)
    for vector in range(len(vcpu.state.traps)):
        vcpu.state.traps[vector] = Trap(dpl, xen.FLAT_RING1_CS, _CODE)
    return _told(vcpu, exit_, traps.handle(vcpu, exit_))


def _told(vcpu: Vcpu, exit_: Exit, outcome: Outcome) -> str:
    seen = vcpu.seen
    if isinstance(outcome, Inject):
        if outcome.advance:
            return f"bounced to the guest's handler of vector {outcome.vector:#04x}"
        code = "" if outcome.error_code is None else f"({outcome.error_code:#x})"
        return f"#{Vector(outcome.vector).name}{code}, bounced to the guest's handler"
    if seen.kind == "hypercall":
        return "a hypercall, its number in EAX"
    if seen.kind == "gate":
        return "straight to the guest's handler in ring 1, through its own trap gate"
    assert seen.handler is not None
    return f"handled by {_named(seen.handler)}"


def _vcpu(raw: bytes, ring: int, policy: str) -> Vcpu:
    """A vCPU on a CPU that executes nothing, at an instruction in a ring, with nothing set up."""
    cpu = PlainCpu(PlainRegisters(eip=_CODE, cpl=ring, eflags=EFLAGS_FIXED), _MEMORY)
    cpu.regs.gpr[Gpr.ESP] = _STACK
    cpu.ram.write(_CODE, raw)
    cpu.ram.set_u32(_DIRECTORY, PTE_P | PTE_RW | PTE_US | PTE_PS)
    cpu.load_cr3(_DIRECTORY)
    vcpu = Vcpu(Domain("explained"), cpu, policy=policy)
    vcpu.rows = HYPERCALLS
    # Another than 0, so that what asks gets a call that changes nothing.
    cpu.regs.gpr[Gpr.EAX] = xen.Hypercall.xen_version
    vcpu.state.direct_gate, vcpu.state.kernel_sp = True, _STACK
    return vcpu


def _named(handler: Callable[..., object]) -> str:
    """A handler's name, and what its docstring says beyond the instruction's name."""
    said = (handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return f"{handler.__name__} ({said})" if " " in said else handler.__name__
