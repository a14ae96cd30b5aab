"""The self-check: each property of this machine's engines that the harness stands on, shown by running it.

A property is a function that says what it saw and whether that is what is relied upon. The order is that of building
a machine: without the versions the rest is luck, without the CPU state nothing runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from harness.abi.x86 import ARITHMETIC_FLAGS, CF, DF, IOPL_SHIFT, PTE_P, PTE_RW, PTE_US, Gpr, Vector
from harness.domain.exits import Reason
from harness.machine import layout
from harness.machine.engine import Engine, EngineError
from harness.machine.machine import PRIVATE, Machine, RunEnd
from harness.machine.trial import CODE, MEMORY, Seen, Trial

TESTED = {"unicorn": ("2.1.4", "2.1.5"), "capstone": ("5.0.1", "6"), "keystone-engine": ("0.9.2", "0.9.3")}
"""Each engine's first version that was tested, and the first one that was not."""


@dataclass(frozen=True, slots=True)
class Check:
    """One property. `detail` is what was seen, and what to install where that is the remedy."""

    name: str
    holds: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'FAIL'}  {self.name}" + (f": {self.detail}" if self.detail else "")


Found = tuple[bool, str]
Property = Callable[[], Found]
_PROPERTIES: list[tuple[str, Property]] = []


def _property(name: str) -> Callable[[Property], Property]:
    def add(function: Property) -> Property:
        _PROPERTIES.append((name, function))
        return function

    return add


def checks() -> Iterator[Check]:
    """Every check, one after the other, as it is made."""
    for package, (first, beyond) in TESTED.items():
        yield _version(package, first, beyond)
    for name, shows in _PROPERTIES:
        try:
            yield Check(name, *shows())
        except (EngineError, layout.LayoutError, IndexError) as problem:
            # IndexError: fewer exits came than were waited for.
            yield Check(name, False, f"{problem}; {_remedy('unicorn')}")


def _version(package: str, first: str, beyond: str) -> Check:
    name = f"{package} is a tested version"
    try:
        found = version(package)
    except PackageNotFoundError:
        return Check(name, False, f"not installed; {_remedy(package)}")
    tested = _numbers(first) <= _numbers(found) < _numbers(beyond)
    return Check(name, tested, found if tested else f"{found} is not; {_remedy(package)}")


def _numbers(text: str) -> tuple[int, ...]:
    digits = ("".join(c for c in part if c.isdigit()) for part in text.split(".")[:3])
    return tuple(int(part or 0) for part in digits)


def _remedy(package: str) -> str:
    first, beyond = TESTED[package]
    return f"pip install '{package}>={first},<{beyond}'"


def _where(seen: list[Seen]) -> str:
    return " ".join(f"{s.reason.name.lower()}:{s.vector}@+{s.at}" for s in seen)


def _compare(seen: list[Seen], *expected: tuple[Reason, int, int]) -> Found:
    """Whether exits are what was expected: reason, vector, EIP relative to the code."""
    return [(s.reason, s.vector, s.at) for s in seen] == list(expected), _where(seen)


# -- Building a machine


@_property("CPU state is where it is looked for")
def _state_located() -> Found:
    engine = Engine()
    try:
        located = engine.locate()
        return True, f"CPU + {located.state - located.cpu:#x}"
    finally:
        engine.close()


@_property("SVM guest mode is entered and kept")
def _guest_mode() -> Found:
    machine = Machine(MEMORY)
    try:
        hflags = machine.regs.words[layout.HFLAGS >> 2]
        return bool(hflags & layout.HF_GUEST and not hflags & layout.HF_SVME), f"hflags {hflags:#x}"
    finally:
        machine.close()


# -- Faults

_PRIVILEGED = {
    "HLT": "f4", "CLI": "fa", "STI": "fb", "CLTS": "0f06", "MOV EAX, CR0": "0f20c0", "MOV CR3, EAX": "0f22d8",
    "MOV EAX, DR7": "0f21f8", "INVD": "0f08", "WBINVD": "0f09", "LMSW AX": "0f01f0", "RDMSR": "0f32", "WRMSR": "0f30",
    "LGDT": "0f011500500000", "LIDT": "0f011d00500000", "LLDT AX": "0f00d0", "LTR AX": "0f00d8",
    "INVLPG": "0f013d00500000",
}  # fmt: skip


@_property("privileged instructions in ring 1 raise #GP(0) with EIP at the instruction")
def _privileged() -> Found:
    wrong = []
    for name, code in _PRIVILEGED.items():
        (seen,) = _run(bytes.fromhex("90" + code))
        if (seen.reason, seen.vector, seen.error_code, seen.at) != (Reason.EXCEPTION, Vector.GP, 0, 1):
            wrong.append(name)
    return not wrong, ", ".join(wrong) or f"{len(_PRIVILEGED)} instructions"


def _run(code: bytes, number: int = 1, ring: int = 1, eflags: int = 2) -> list[Seen]:
    trial = Trial(code, ring, eflags=eflags)
    try:
        return trial.exits(number)
    finally:
        trial.close()


@_property("a fault's error code can be read")
def _error_code() -> Found:
    # mov eax, 0x1230; mov ds, eax
    (seen,) = _run(bytes.fromhex("b8301200008ed8"))
    return (seen.vector, seen.error_code) == (Vector.GP, 0x1230), f"{seen.error_code:#x}"


@_property("a page fault tells its address and why")
def _page_fault() -> Found:
    # mov [0x5a123], eax
    trial = Trial(bytes.fromhex("a323a10500"), paging=True)
    try:
        trial.map(0x5A000, 0x5A000 | PTE_P | PTE_US)
        (seen,) = trial.exits()
    finally:
        trial.close()
    return (seen.vector, seen.address, seen.error_code) == (Vector.PF, 0x5A123, 3), f"{seen.address:#x}"


@_property("#GP after #GP stays #GP: no double fault of the engine's own")
def _repeated() -> Found:
    seen = _run(bytes.fromhex("0f06") * 6, 6)
    found = [(s.vector, s.at) for s in seen] == [(Vector.GP, 2 * n) for n in range(6)]
    return found, f"{len(seen)} in a row" if found else _where(seen)


@_property("INT n, INT3 and INTO exit before they are done")
def _software_interrupts() -> Found:
    # int 0x82; int3; mov al, 0x7f; inc al; into
    seen = _run(bytes.fromhex("cd82ccb07ffec0ce"), 3)
    return _compare(seen, (Reason.SOFTWARE_INT, 0x82, 0), (Reason.SOFTWARE_INT, Vector.BP, 2),
                    (Reason.SOFTWARE_INT, Vector.OF, 7))


@_property("#UD exits, and INT1 is told apart from it")
def _invalid_opcode() -> Found:
    seen = _run(bytes.fromhex("0f0bf1"), 2)
    return _compare(seen, (Reason.EXCEPTION, Vector.UD, 0), (Reason.EXCEPTION, Vector.DB, 2))


@_property("CPUID, RDTSC and RDTSCP exit")
def _intercepts() -> Found:
    seen = _run(bytes.fromhex("0fa20f310f01f9"), 3)
    return [s.reason for s in seen] == [Reason.CPUID, Reason.RDTSC, Reason.RDTSCP], _where(seen)


# -- State written in place


@_property("a ring written in place is the ring that code runs in")
def _ring() -> Found:
    # cli: at IOPL 1 it runs in ring 1 and faults in ring 3
    trial = Trial(bytes.fromhex("fa0f06fa90"), eflags=1 << IOPL_SHIFT | 2)

    def leave(_seen: Seen) -> None:
        trial.go(3, CODE + 3, 1 << IOPL_SHIFT | 2)

    try:
        seen = trial.exits(2, leave)
    finally:
        trial.close()
    return [(s.at, s.cpl) for s in seen] == [(1, 1), (3, 3)], " ".join(f"ring {s.cpl}@+{s.at}" for s in seen)


@_property("flags are read and written as PUSHF shows them")
def _flags() -> Found:
    # xor eax, eax; sub eax, 1; clts; pushfd; pop eax; clts; std; pushfd; pop eax; clts
    trial = Trial(bytes.fromhex("31c083e8010f069c580f06fd9c580f06"))
    planted = CF | DF | 1 << 11

    def answer(seen: Seen) -> None:
        trial.skip()
        if seen.at == 9:
            trial.regs.eflags = planted | 2

    try:
        first, second, third = trial.exits(3, answer)
    finally:
        trial.close()
    mask = ARITHMETIC_FLAGS | DF
    pairs = ((first.eflags, second.gpr[Gpr.EAX]), (planted, third.gpr[Gpr.EAX]), (third.eflags, third.gpr[Gpr.EAX]))
    return all((a ^ b) & mask == 0 for a, b in pairs), " ".join(f"{a & mask:#x}={b & mask:#x}" for a, b in pairs)


# -- Memory


@_property("an entry taken away is gone after a TLB flush")
def _tlb() -> Found:
    # again: mov eax, [0x5a000]; clts; jmp again
    trial = Trial(bytes.fromhex("a100a005000f06ebf7"), paging=True)

    def answer(_seen: Seen) -> None:
        trial.map(0x5A000, 0)
        trial.flush_tlb()
        trial.skip()

    try:
        seen = trial.exits(2, answer)
    finally:
        trial.close()
    return _compare(seen, (Reason.EXCEPTION, Vector.GP, 5), (Reason.EXCEPTION, Vector.PF, 0))


@_property("nested paging keeps back what was not granted, and the machine's own memory")
def _nested() -> Found:
    details = []
    for linear in (0x5A000, MEMORY, PRIVATE, 0xFFFFF000):
        # mov eax, [linear]
        trial = Trial(b"\xa1" + linear.to_bytes(4, "little"), ring=0)
        try:
            trial.nested.revoke(0x5A)
            (seen,) = trial.exits()
        finally:
            trial.close()
        if (seen.reason, seen.address) != (Reason.NESTED_FAULT, linear):
            details.append(f"{linear:#x} gave {_where([seen])}")
    return not details, "; ".join(details)


@_property("a host write to code is seen")
def _host_write() -> Found:
    # again: mov eax, 1; clts; jmp again
    trial = Trial(bytes.fromhex("b8010000000f06ebf7"))

    def answer(_seen: Seen) -> None:
        trial.put(CODE + 1, b"\2")
        trial.skip()

    try:
        seen = trial.exits(2, answer)
    finally:
        trial.close()
    values = [s.gpr[Gpr.EAX] for s in seen]
    return values == [1, 2], str(values)


# -- Block scan

_IN = bytes.fromhex("ec")


def _scan(code: bytes, number: int, answer: Callable[[Trial, Seen], None] | None = None, *,
          paging: bool = False) -> list[Seen]:
    trial = Trial(code, eflags=1 << IOPL_SHIFT | 2, paging=paging)

    def answers(seen: Seen) -> None:
        if answer is not None:
            answer(trial, seen)

    try:
        return trial.exits(number, answers if answer else None)
    finally:
        trial.close()


def _only_in(seen: list[Seen], *places: int) -> Found:
    return [(s.kind, s.at) for s in seen if s.reason is Reason.SCANNED] == [("io", at) for at in places], _where(seen)


@_property("block scan: IN is seen before it first runs, and may be stepped over")
def _scan_straight() -> Found:
    # mov eax, 7; in al, dx; in al, dx; clts
    seen = _scan(b"\xb8\7\0\0\0" + _IN + _IN + b"\x0f\x06", 3)
    found, detail = _only_in(seen, 5, 6)
    return found and seen[-1].gpr[Gpr.EAX] == 7, detail


@_property("block scan: in a block after an exit and a jump")
def _scan_after_exit() -> Found:
    # clts; jmp over 32 bytes; in al, dx; clts
    return _only_in(_scan(b"\x0f\x06\xeb\x20" + bytes(32) + _IN + b"\x0f\x06", 3), 36)


@_property("block scan: in the first block after a stop")
def _scan_after_stop() -> Found:
    trial = Trial(b"\x0f\x06" + _IN + b"\x0f\x06", eflags=1 << IOPL_SHIFT | 2)
    try:
        trial.exits(1)
        trial.skip()
        return _only_in(trial.exits(3), 2)
    finally:
        trial.close()


@_property("block scan: in code that the guest writes itself")
def _scan_self_modified() -> Found:
    # again: nop; clts; mov byte ptr [again], 0xec; jmp again
    code = b"\x90\x0f\x06\xc6\x05" + CODE.to_bytes(4, "little") + _IN + b"\xeb\xf4"
    return _only_in(_scan(code, 2), 0)


@_property("block scan: in another frame at the same address")
def _scan_remapped() -> Found:
    # nop; clts; jmp back to it: the second time the page is another one
    def answer(trial: Trial, seen: Seen) -> None:
        trial.skip()
        if seen.at == 1:
            trial.put(0x5A000, _IN + b"\x0f\x06")
            trial.map(CODE, 0x5A000 | PTE_P | PTE_RW)
            trial.flush_tlb()
            trial.regs.eip = CODE

    return _only_in(_scan(b"\x90\x0f\x06", 2, answer, paging=True), 0)


@_property("block scan: EIP moved by its hook is where the CPU goes on")
def _scan_moves() -> Found:
    # in al, dx; ud2; ud2; ud2; nop; clts
    def answer(trial: Trial, _seen: Seen) -> None:
        trial.regs.eip = CODE + 7

    seen = _scan(_IN + b"\x0f\x0b" * 3 + b"\x90\x0f\x06", 2, answer)
    return [s.at for s in seen] == [0, 8], _where(seen)


# -- Running


@_property("a counted slice ends exactly there, every time")
def _slices() -> Found:
    ends = []
    for _ in range(2):
        # again: inc eax; jmp again
        trial = Trial(bytes.fromhex("40ebfd"))
        try:
            for count in (1, 10, 999):
                trial.exits(1, count=count)
                ends.append((trial.ended, trial.executed, trial.regs.gpr[Gpr.EAX], trial.regs.eip - CODE))
        finally:
            trial.close()
    half = [(RunEnd.SLICE, 1, 1, 1), (RunEnd.SLICE, 10, 6, 1), (RunEnd.SLICE, 999, 505, 0)]
    return ends == half * 2, str([end[1:] for end in ends[:3]])


@_property("the end of a counted slice can be moved while it runs")
def _slice_moved() -> Found:
    # clts; again: inc eax; jmp again
    trial = Trial(bytes.fromhex("0f0640ebfd"))

    def answer(_seen: Seen) -> None:
        trial.skip()
        trial.count_on(20)

    try:
        trial.exits(2, answer, count=1000)
        return (trial.ended, trial.executed, trial.regs.gpr[Gpr.EAX]) == (RunEnd.SLICE, 21, 10), str(trial.executed)
    finally:
        trial.close()


@_property("an exception in a handler comes out of the run")
def _exceptions() -> Found:
    trial = Trial(bytes.fromhex("0f06"))

    def answer(_seen: Seen) -> None:
        raise KeyError("planted")

    try:
        trial.exits(2, answer)
    except KeyError:
        return True, ""
    finally:
        trial.close()
    return False, "it was lost"


@_property("a run can be stopped from another thread")
def _stopped() -> Found:
    # again: jmp again
    trial = Trial(bytes.fromhex("ebfe"))
    over = threading.Event()

    def stop() -> None:
        while not over.wait(0.005):
            trial.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        trial.exits(1)
        return not trial.seen and trial.ended is RunEnd.STOPPED, ""
    finally:
        over.set()
        stopper.join()
        trial.close()


@_property("a saved machine goes on in another engine")
def _saved() -> Found:
    # mov eax, 5; fld1; clts; fstp qword ptr [0x5000]; add eax, [0x5004]; clts
    code = bytes.fromhex("b805000000d9e80f06dd1d005000000305045000000f06")
    first, second = Trial(code, paging=True), Trial(b"\xf4" * len(code), ring=3)
    try:
        first.exits(1)
        first.skip()
        second.load(first.save())
        ends = [trial.exits(number)[-1] for trial, number in ((first, 2), (second, 1))]
    finally:
        first.close()
        second.close()
    # A double of 1.0 has 0x3ff00000 in its high half.
    return ends[0] == ends[1] and ends[1].gpr[Gpr.EAX] == 0x3FF00005, f"eax {ends[1].gpr[Gpr.EAX]:#x}"
