"""What a trap costs here, against the least that it could: `harness bench`.

Each measure is run beside a bare loop of the same work (`machine/yardstick.py`: a raw engine, no hypervisor), turn by
turn in one process, so that a busy machine slows both. The ratio is taken round by round; its median and the quartiles
around it are what counts. Times are of the thread, not of the clock on the wall, except for the cold start.
"""

from __future__ import annotations

import json as jsonlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import click

from harness.code.assembler import assemble
from harness.domain.image import Image, Segment
from harness.domain.record import Verdict
from harness.guest import Expectation, Guest, RunOptions, asm_path
from harness.hypervisor import Domain
from harness.machine import yardstick
from harness.report.layout import table
from harness.snapshot import Snapshot

ROUNDS = 9
_TRAPS, _BATCHES, _TURNS = 20_000, 600, 3_000_000
_BASE = 1 << 20
_MEMORY = 2 << 20
_TRAP_TARGET, _STRAIGHT_TARGET, _COLD_TARGET = 1.5, 0.95, 2.0


@dataclass(frozen=True, slots=True)
class Measure:
    """Two ways to do the same: seconds for `count` times of it. `at_least` tells a target for a speed from a cost."""

    name: str
    against: str
    count: int
    ours: Callable[[], float]
    bare: Callable[[], float]
    target: float | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Microseconds for one time, medians; the ratio with its quartiles, and the target where there is one.

    For a target that is a speed the ratio is one of speeds.
    """

    name: str
    against: str
    ours_us: float
    bare_us: float
    ratio: float
    low: float
    high: float
    target: float | None
    at_least: bool
    met: bool | None


def main(*, json: bool = False, rounds: int = ROUNDS) -> None:
    """Measure all and print a row each, or everything as one JSON object."""
    if json:
        found = [asdict(measured(measure, rounds)) for measure in measures()]
        click.echo(jsonlib.dumps({"rounds": rounds, "measures": found}, indent=2))
        return
    click.echo(f"medians of {rounds} rounds, each beside its bare loop; quartiles in brackets")
    rows: list[tuple[str, ...]] = [("", "here", "bare", "ratio", "", "target", "")]
    for measure in measures():
        click.echo(f"... {measure.name}", err=True)
        rows.append(_row(measured(measure, rounds)))
    for line in table(rows, right=frozenset({1, 2, 3})):
        click.echo(line)


def measured(measure: Measure, rounds: int) -> Result:
    """A measure's result, from `rounds` (2 or more) turns of each side after one that warms up."""
    measure.ours()
    measure.bare()
    pairs = [(measure.ours(), measure.bare()) for _ in range(rounds)]
    ratios = [bare / ours if measure.at_least else ours / bare for ours, bare in pairs]
    low, ratio, high = quantiles(ratios, n=4)
    met = None if measure.target is None else ratio >= measure.target if measure.at_least else ratio <= measure.target
    ours_us, bare_us = (median(side) / measure.count * 1e6 for side in zip(*pairs, strict=True))
    return Result(measure.name, measure.against, ours_us, bare_us, ratio, low, high, measure.target, measure.at_least,
                  met)


def _row(result: Result) -> tuple[str, ...]:
    target = "" if result.target is None else f"{'>=' if result.at_least else '<='} {result.target}"
    verdict = "" if result.met is None else "met" if result.met else "missed"
    return (f"{result.name}, against {result.against}", _time(result.ours_us), _time(result.bare_us),
            f"{result.ratio:.2f}", f"[{result.low:.2f} {result.high:.2f}]", target, verdict)


def _time(microseconds: float) -> str:
    return f"{microseconds / 1000:.1f} ms" if microseconds >= 1000 else f"{microseconds:.2f} us"


# -- What is measured


def measures() -> Iterator[Measure]:
    """All of them, in the order in which they are told."""
    yield _trap("CLTS, emulated", _CLTS, yardstick.emulated, (_BARE_CLTS,))
    yield _trap("null hypercall", _NULL, yardstick.called, (_BARE_NULL,))
    yield _batch()
    yield _trap("system call, ring 3 to 1 and back", _SYSTEM_CALL, yardstick.system_calls, (_BARE_INT, _BARE_IRET))
    yield _trap("page fault fixed by the guest", _PAGE_FAULT, yardstick.page_faults, (_BARE_TOUCH, _BARE_FIX))
    yield _straight_line()
    yield from _snapshots()
    yield from _cold_starts()


def _trap(name: str, text: str, bare: Callable[..., float], code: Sequence[str]) -> Measure:
    guest = _guest(text, _TRAPS)
    places = (yardstick.CODE, yardstick.KERNEL)
    assembled = [_bare_code(part, _TRAPS, base) for part, base in zip(code, places, strict=False)]
    return Measure(name, "a bare loop", _TRAPS, lambda: _run(guest), lambda: bare(*assembled), _TRAP_TARGET)


def _batch() -> Measure:
    guest, code = _guest(_MULTICALL, _BATCHES), _bare_code(_BARE_NULL, 32 * _BATCHES, yardstick.CODE)
    return Measure("multicall of 32", "32 bare hypercalls", _BATCHES, lambda: _run(guest),
                   lambda: yardstick.called(code), _TRAP_TARGET)


def _straight_line() -> Measure:
    # The data has a page of its own: a store beside code makes the engine look at the code again.
    guest = _guest(_LOOP + _END, _TURNS)
    code = _bare_code(_LOOP.replace("data", str(yardstick.STACK)), _TURNS, yardstick.CODE)
    return Measure("straight-line code (speed)", "a plain engine", _TURNS, lambda: _run(guest),
                   lambda: yardstick.straight_line(code), _STRAIGHT_TARGET, at_least=True)


def _snapshots() -> Iterator[Measure]:
    """Against copying the domain's whole machine memory."""
    domain = Domain(_guest(_CLTS, 10), memory=_MEMORY)
    domain.run()
    memory = memoryview(domain.machine.ram.mapping)
    snapshot, copied = Snapshot.take(domain), bytes(memory)

    def put_back() -> None:
        memory[:] = copied

    yield Measure("snapshot", "a copy of its RAM", 1, _timed(lambda: Snapshot.take(domain)),
                  _timed(lambda: bytes(memory)))
    yield Measure("restore", "a copy of its RAM", 1, _timed(lambda: snapshot.restore(domain)), _timed(put_back))
    memory.release()
    domain.machine.close()


def _cold_starts() -> Iterator[Measure]:
    """In a child of its own, as is usual, and in its own process. Both sides find their bytecode compiled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.asm")
        path.write_text(_PRELUDE + _CLTS.replace("COUNT", "10"), encoding="utf-8")
        environment = os.environ | {"PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode")), "PYTHONDONTWRITEBYTECODE": ""}

        def process(*arguments: str) -> Callable[[], float]:
            def run() -> float:
                began = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
                return time.perf_counter() - began
            return run

        engines = process("-c", "import unicorn, capstone, keystone")
        command = ("-m", "harness", "run", str(path))
        yield Measure("cold start of harness run", "importing its engines", 1, process(*command), engines, _COLD_TARGET)
        yield Measure("cold start, --jobs 1", "importing its engines", 1, process(*command, "--jobs", "1"), engines,
                      _COLD_TARGET)


def _timed(do: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began = time.thread_time()
        do()
        return time.thread_time() - began
    return timed


def _run(guest: Guest) -> float:
    """Seconds that a guest takes from its first instruction to its end, building it not counted."""
    domain = Domain(guest, memory=_MEMORY, timeout=None)
    try:
        began = time.thread_time()
        result = domain.run()
        took = time.thread_time() - began
    finally:
        domain.machine.close()
    if result.verdict is not Verdict.SUCCESS:
        raise RuntimeError(f"a guest of the bench ended with {result.verdict}: {result.reason}")
    return took


def _guest(text: str, count: int) -> Guest:
    code = assemble(_PRELUDE + text.replace("COUNT", str(count)), name="bench", base=_BASE, include_path=(asm_path(),))
    image = Image((Segment(_BASE, code.code, len(code.code)),), code.symbols["start"], dict(code.symbols))
    return Guest("bench", Path("bench"), "", ("pv",), RunOptions(), {"pv": Expectation()}, image, False)


def _bare_code(text: str, count: int, base: int) -> bytes:
    text = text.replace("COUNT", str(count)).replace("ABSENT", str(yardstick.ABSENT))
    return assemble(text, name="bench", base=base).code


# -- The guests, and the same for the bare loops

_PRELUDE = '.include "xen.inc"\nstart:\n'
_END = """
    shutdown poweroff
    page data
"""
_CLTS = """
    mov ecx, COUNT
again:
    clts
    dec ecx
    jnz again
    shutdown poweroff
"""
_BARE_CLTS = """
    mov ecx, COUNT
again:
    clts
    dec ecx
    jnz again
    int 0x82
"""
_NULL = """
    mov edi, COUNT
again:
    mov eax, __HYPERVISOR_xen_version
    mov ebx, 0
    int 0x82
    dec edi
    jnz again
    shutdown poweroff
"""
_BARE_NULL = """
    mov edi, COUNT
again:
    mov eax, 17
    mov ebx, 0
    int 0x82
    dec edi
    jnz again
    hlt
"""
_MULTICALL = """
    mov edi, COUNT
again:
    hypercall multicall, calls, 32
    dec edi
    jnz again
    shutdown poweroff
    .align 32
calls:
    .rept 32
    multicall_entry xen_version
    .endr
"""
_SYSTEM_CALL = """
    mov ebp, [esi + START_INFO_MFN_LIST]
    hypercall set_trap_table, traps
    kernel_stack kernel_top
    mov ecx, [ebp + user / PAGE_SIZE * 4]
    shl ecx, 12
    or ecx, PTE_P | PTE_A | PTE_US
    hypercall update_va_mapping, user, , 0, UVMF_INVLPG
    enter_user user, 0
system_call:
    iretd
done:
    shutdown poweroff
    trap_table_begin traps
    trap 0x80, 3, system_call
    trap 0x81, 3, done
    trap_table_end
    stack kernel_top
    .align PAGE_SIZE
user:
    mov edi, COUNT
again:
    int 0x80
    dec edi
    jnz again
    int 0x81
    .align PAGE_SIZE
"""
_BARE_INT = """
    mov edi, COUNT
again:
    int 0x80
    dec edi
    jnz again
    hlt
"""
_BARE_IRET = "iretd"
_PAGE_FAULT = """
    mov ebp, [esi + START_INFO_MFN_LIST]
    hypercall set_trap_table, traps
    mov ebp, [ebp + touched / PAGE_SIZE * 4]
    shl ebp, 12
    or ebp, PTE_P | PTE_RW | PTE_A | PTE_D
    mov edi, COUNT
again:
    hypercall update_va_mapping, touched, 0, 0, UVMF_INVLPG
    mov eax, [touched]
    dec edi
    jnz again
    shutdown poweroff
fix:
    hypercall update_va_mapping, touched, ebp, 0, 0
    add esp, 4
    iretd
    trap_table_begin traps
    trap 14, 0, fix
    trap_table_end
    page touched
"""
_BARE_TOUCH = """
    mov edi, COUNT
again:
    mov ebx, ABSENT
    mov ecx, 0
    mov esi, 2
    mov eax, 14
    int 0x82
    mov eax, [ABSENT]
    dec edi
    jnz again
    hlt
"""
_BARE_FIX = """
    mov ebx, ABSENT
    mov ecx, ABSENT | 0x67
    mov esi, 0
    mov eax, 14
    int 0x82
    add esp, 4
    iretd
"""
_LOOP = """
    mov ecx, COUNT
again:
    mov eax, [data]
    add eax, 3
    mov [data], eax
    dec ecx
    jnz again
"""
