"""Port I/O: permission in three steps, then a device or nothing (arch/x86/traps.c, guest_io_okay, admin_io_okay)."""

from __future__ import annotations

import pytest

from harness.abi.x86 import DF, PTE_A, PTE_P, Gpr, Vector
from harness.abi.xen import Hypercall
from harness.domain.outcome import RESUME, RETIRE, Inject
from harness.pv import ports
from harness.pv.state import POLICY_FULL
from tests.pv.stage import DATA, NOWHERE, SPARE, Stage

GP0 = Inject(Vector.GP, 0)
BITMAP, BUFFER = DATA + 0x800, SPARE
SET_IOPL, SET_IOBITMAP = 6, 7
PORT = 0x42


class Device:
    """Answers at one port and remembers what was asked of it."""

    def __init__(self, value: int | None = None) -> None:
        self.value, self.asked = value, []  # type: ignore[var-annotated]

    def read(self, port: int, size: int) -> int | None:
        """See Ports."""
        self.asked.append(("in", port, size))
        return self.value

    def write(self, port: int, value: int, size: int) -> None:
        """See Ports."""
        self.asked.append(("out", port, value, size))


def allowed(stage: Stage, ring: int = 1, iopl: int = 1) -> Stage:
    stage.state.iopl = iopl
    stage.enter(ring)
    return stage


def with_device(value: int | None = None) -> tuple[Stage, Device]:
    device = Device(value)
    return allowed(Stage(ports=device)), device


def set_bitmap(stage: Stage, ports_: int, *denied: int) -> None:
    """By physdev_op, as a kernel does it: a set bit denies."""
    bits = bytearray(0x200)
    for port in denied:
        bits[port >> 3] |= 1 << (port & 7)
    stage.put(BITMAP, bytes(bits))
    stage.words(DATA, SET_IOBITMAP, BITMAP, ports_)
    assert stage.call(Hypercall.physdev_op_compat, DATA) == 0


# -- Permission


@pytest.mark.parametrize(("ring", "iopl", "okay"), [
    (1, 0, False), (1, 1, True), (1, 2, True), (1, 3, True), (3, 0, False), (3, 1, False), (3, 2, False), (3, 3, True)])
@pytest.mark.parametrize("code", ["e442", "e542", "ec", "ed", "e642", "e742", "ee", "ef", "6c", "6d", "6e", "6f"])
def test_the_virtual_iopl(stage: Stage, ring: int, iopl: int, okay: bool, code: str) -> None:
    """The real one is always 0 (and the TSS has no bitmap): every access faults, the virtual IOPL decides."""
    stage.open_to_user(BUFFER)
    gpr = stage.regs.gpr
    gpr[Gpr.EDX], gpr[Gpr.ESI], gpr[Gpr.EDI] = PORT, BUFFER, BUFFER
    stage.words(DATA, SET_IOPL, iopl)
    assert stage.call(Hypercall.physdev_op_compat, DATA) == 0
    stage.open_to_user(stage.regs.eip & ~0xFFF)
    stage.enter(ring)
    assert stage.gp(code) == (RETIRE if okay else GP0)


@pytest.mark.parametrize(("count", "port", "size", "denied", "okay"), [
    (0x400, 0x42, 1, (), True), (0x400, 0x42, 1, (0x42,), False), (0x400, 0x42, 1, (0x41, 0x43), True),
    (0x400, 0x40, 2, (0x41,), False), (0x400, 0x40, 4, (0x43,), False), (0x400, 0x40, 4, (0x44,), True),
    (0x400, 0x47, 1, (0x47,), False), (0x400, 0x47, 2, (0x48,), False), (0x400, 0x47, 4, (0x4A,), False),
    (0x400, 0x47, 4, (0x46, 0x4B), True),
    (0x44, 0x42, 1, (), True), (0x43, 0x42, 1, (), False), (0x47, 0x42, 4, (), True), (0x46, 0x42, 4, (), False),
    (0, 0, 1, (), False), (0x400, 0x400, 1, (), False),
])
@pytest.mark.parametrize("ring", [1, 3])
def test_the_guests_own_bitmap(
        stage: Stage, ring: int, count: int, port: int, size: int, denied: tuple[int, ...], okay: bool) -> None:
    """Its limit must lie beyond port + size; then each port's bit must be clear."""
    set_bitmap(stage, count, *denied)
    stage.enter(ring)
    assert ports.guest_io_okay(stage.vcpu, port, size) == okay


def test_a_bitmap_that_cannot_be_read_allows_nothing(stage: Stage) -> None:
    stage.state.io_bitmap, stage.state.io_bitmap_ports = NOWHERE, 0x400
    assert not ports.guest_io_okay(stage.vcpu, PORT, 1)


def test_a_kernel_that_counts_as_ring_0_needs_no_permission(full: Stage) -> None:
    assert full.gp("e442") == RETIRE
    full.enter(3)
    assert not ports.guest_io_okay(full.vcpu, PORT, 1)


# -- What the administrator has not allowed


@pytest.mark.parametrize("device", [None, Device()])
@pytest.mark.parametrize(("code", "expected"), [
    ("e442", 0x112233FF), ("66e542", 0x1122FFFF), ("e542", 0xFFFFFFFF), ("ec", 0x112233FF), ("66ed", 0x1122FFFF),
    ("ed", 0xFFFFFFFF)])
def test_in_reads_all_ones(device: Device | None, code: str, expected: int) -> None:
    stage = allowed(Stage(ports=device))
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.EDX] = 0x11223344, PORT
    assert stage.gp(code) == RETIRE
    assert stage.regs.gpr[Gpr.EAX] == expected


@pytest.mark.parametrize("code", ["e642", "e742", "ee", "ef"])
def test_out_is_dropped(stage: Stage, code: str) -> None:
    allowed(stage).regs.gpr[Gpr.EDX] = PORT
    before = list(stage.regs.gpr)
    assert stage.gp(code) == RETIRE
    assert list(stage.regs.gpr) == before


# -- With a device


@pytest.mark.parametrize(("code", "port", "size", "expected"), [
    ("e442", 0x42, 1, 0x112233DD), ("e4ff", 0xFF, 1, 0x112233DD), ("66e542", 0x42, 2, 0x1122CCDD),
    ("e542", 0x42, 4, 0xAABBCCDD), ("ec", 0x3F8, 1, 0x112233DD), ("66ed", 0x3F8, 2, 0x1122CCDD),
    ("ed", 0x3F8, 4, 0xAABBCCDD), ("6666ed", 0x3F8, 4, 0xAABBCCDD), ("666666ed", 0x3F8, 2, 0x1122CCDD),
    ("66ec", 0x3F8, 1, 0x112233DD)])
def test_in(code: str, port: int, size: int, expected: int) -> None:
    """DX alone is the port; Xen toggles the size at each 66 prefix."""
    stage, device = with_device(0xAABBCCDD & (1 << 8 * size) - 1)
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.EDX] = 0x11223344, 0xFFFF03F8
    assert stage.gp(code) == RETIRE
    assert stage.regs.gpr[Gpr.EAX] == expected
    assert device.asked == [("in", port, size)]


@pytest.mark.parametrize(("code", "port", "size", "value"), [
    ("e642", 0x42, 1, 0x44), ("e6ff", 0xFF, 1, 0x44), ("66e742", 0x42, 2, 0x3344), ("e742", 0x42, 4, 0x11223344),
    ("ee", 0x3F8, 1, 0x44), ("66ef", 0x3F8, 2, 0x3344), ("ef", 0x3F8, 4, 0x11223344), ("6666ef", 0x3F8, 4, 0x11223344)])
def test_out(code: str, port: int, size: int, value: int) -> None:
    stage, device = with_device()
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.EDX] = 0x11223344, 0xFFFF03F8
    assert stage.gp(code) == RETIRE
    assert device.asked == [("out", port, value, size)]


# -- Strings


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("code", "size", "times"), [
    ("6c", 1, 1), ("666d", 2, 1), ("6d", 4, 1), ("66666d", 4, 1), ("f36c", 1, 3), ("f3666d", 2, 3), ("f36d", 4, 3),
    ("f26c", 1, 1), ("f2f36c", 1, 3), ("f3f26c", 1, 3), ("646c", 1, 1)])
def test_ins(code: str, size: int, times: int, backwards: bool) -> None:
    """F3 repeats, wherever it stands; F2 does not; EDI is a flat address."""
    stage, device = with_device(0xAABBCCDD & (1 << 8 * size) - 1)
    gpr, start = stage.regs.gpr, BUFFER + 0x100
    gpr[Gpr.EDX], gpr[Gpr.EDI], gpr[Gpr.ECX] = 0xFFFF03F8, start, 3
    stage.regs.eflags |= DF if backwards else 0
    assert stage.gp(code) == RETIRE
    step = -size if backwards else size
    assert gpr[Gpr.EDI] == start + step * times
    assert gpr[Gpr.ECX] == (0 if times == 3 else 3)
    assert device.asked == [("in", 0x3F8, size)] * times
    low = start - size * (times - 1) if backwards else start
    assert stage.get(low, size * times) == (0xAABBCCDD).to_bytes(4, "little")[:size] * times
    assert stage.get(low - 1, 1) + stage.get(low + size * times, 1) == b"\0\0"


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("code", "size", "times"), [
    ("6e", 1, 1), ("666f", 2, 1), ("6f", 4, 1), ("f36e", 1, 3), ("f3666f", 2, 3), ("f36f", 4, 3), ("f26f", 4, 1),
    ("646e", 1, 1)])
def test_outs(code: str, size: int, times: int, backwards: bool) -> None:
    """ESI is a flat address, whatever segment the instruction names."""
    stage, device = with_device()
    gpr, start = stage.regs.gpr, BUFFER + 0x100
    gpr[Gpr.EDX], gpr[Gpr.ESI], gpr[Gpr.ECX] = 0x3F8, start, 3
    stage.put(BUFFER, bytes(range(256)) * 2)
    stage.regs.eflags |= DF if backwards else 0
    assert stage.gp(code) == RETIRE
    step = -size if backwards else size
    assert gpr[Gpr.ESI] == start + step * times
    assert gpr[Gpr.ECX] == (0 if times == 3 else 3)
    assert device.asked == [
        ("out", 0x3F8, int.from_bytes(stage.get(start + step * n, size), "little"), size) for n in range(times)]


@pytest.mark.parametrize("iopl", [0, 1])
@pytest.mark.parametrize("code", ["f36c", "f36d", "f36e", "f36f"])
def test_no_repetition_asks_for_no_permission(code: str, iopl: int) -> None:
    """Xen looks at ECX first."""
    stage, device = with_device()
    allowed(stage, iopl=iopl)
    stage.regs.gpr[Gpr.ECX] = 0
    before = list(stage.regs.gpr)
    assert stage.gp(code) == RETIRE
    assert (list(stage.regs.gpr), device.asked) == (before, [])


def test_pointers_wrap_at_4_gib(stage: Stage) -> None:
    allowed(stage).regs.eflags |= DF
    stage.regs.gpr[Gpr.ESI] = 0
    assert stage.gp("6f") == RETIRE
    assert stage.regs.gpr[Gpr.ESI] == 0xFFFFFFFC


@pytest.mark.parametrize(("count", "first", "left"), [(1, RETIRE, 0), (1024, RETIRE, 0), (1025, RESUME, 1)])
def test_a_long_repetition_lets_others_have_their_turn(stage: Stage, count: int, first: object, left: int) -> None:
    """EIP stays on the instruction, and what is left of it follows."""
    gpr = allowed(stage).regs.gpr
    gpr[Gpr.ECX], gpr[Gpr.EDI] = count, BUFFER
    assert stage.gp("f36c") == first
    assert (gpr[Gpr.ECX], gpr[Gpr.EDI]) == (left, BUFFER + count - left)
    assert stage.get(BUFFER, count - left + 1) == b"\xff" * (count - left) + b"\0"
    if left:
        assert stage.gp("f36c") == RETIRE
        assert gpr[Gpr.ECX] == 0


@pytest.mark.parametrize(("ring", "code", "error_code"), [
    (1, "f36c", 2), (3, "f36c", 6), (1, "f36e", 0), (3, "f36e", 4)])
def test_a_page_fault_leaves_the_iteration_that_met_it(ring: int, code: str, error_code: int) -> None:
    """W for INS; U only if the guest was not in its kernel (propagate_page_fault)."""
    stage, device = with_device(0x55)
    allowed(stage, iopl=3)
    last = SPARE + 0x1000
    for page in (stage.regs.eip & ~0xFFF, SPARE):
        stage.open_to_user(page)
    assert stage.map(last, 0) == 0
    stage.enter(ring)
    gpr, index = stage.regs.gpr, Gpr.EDI if code.endswith("c") else Gpr.ESI
    gpr[Gpr.ECX], gpr[index] = 5, last - 2
    assert stage.gp(code) == Inject(Vector.PF, error_code, last)
    assert (gpr[Gpr.ECX], gpr[index]) == (3, last)
    assert sum(asked[0] == "out" for asked in device.asked) == (0 if index == Gpr.EDI else 2)


def test_a_word_across_a_hole_faults_at_the_hole(stage: Stage) -> None:
    allowed(stage)
    assert stage.map(SPARE + 0x1000, 0) == 0
    stage.regs.gpr[Gpr.EDI] = SPARE + 0xFFE
    assert stage.gp("6d") == Inject(Vector.PF, 2, SPARE + 0x1000)
    assert stage.get(SPARE + 0xFFE, 2) == b"\0\0", "all or nothing"


def test_a_read_only_page(stage: Stage) -> None:
    """Xen says no more than that it was a write."""
    allowed(stage)
    assert stage.remap(SPARE, PTE_P | PTE_A) == 0
    stage.regs.gpr[Gpr.EDI] = SPARE
    assert stage.gp("6c") == Inject(Vector.PF, 2, SPARE)


# -- What is said of it


@pytest.mark.parametrize(("value", "code", "note"), [
    (0x20, "e461", "in 0x61 -> 0x20"), (None, "e461", "in 0x61: nothing there"), (None, "e661", "out 0x61, 0x44")])
def test_notes(value: int | None, code: str, note: str) -> None:
    stage, _ = with_device(value)
    stage.regs.gpr[Gpr.EAX] = 0x11223344
    stage.vcpu.listening = True
    assert stage.gp(code) == RETIRE
    assert stage.vcpu.seen.notes == [note]


def test_a_full_kernel_reaches_devices_too() -> None:
    device = Device(0x20)
    stage = Stage(POLICY_FULL, ports=device)
    assert stage.gp("e461") == RETIRE
    assert stage.regs.gpr[Gpr.EAX] == 0x20
