"""Saving a machine, and going back to it: here, in a fresh machine, in another process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from harness.abi.x86 import PTE_P, Gpr, Seg
from harness.domain.exits import Reason
from harness.domain.registers import SegmentCache
from harness.machine import ImageError, Machine, layout
from harness.machine.ram import CHUNK
from harness.machine.trial import CODE, MEMORY, Seen, Trial
from tests.machine.raw import asm

# Registers, flags, FPU, SSE, memory, a far segment: what a guest can tell of a machine.
PROGRAM = """
mov eax, 0x1234; mov ebx, 5; fld1; movd xmm3, ebx; std; stc; mov dword ptr [0x9100], 0x77; clts
adc eax, ebx; movd ecx, xmm3; fstp qword ptr [0x9200]; mov edx, [0x9204]; mov esi, [0x9100]
pushfd; pop edi; mov ebp, fs:[0]; clts"""


@pytest.fixture
def make(request: pytest.FixtureRequest):
    def build(code: str | bytes, ring: int = 1, **options: object) -> Trial:
        machine = Trial(asm(code) if isinstance(code, str) else code, ring, **options)
        request.addfinalizer(machine.close)
        return machine

    return build


def program(make, **options: object) -> Trial:
    machine = make(PROGRAM.replace("\n", ";"), paging=True, **options)
    machine.regs.cr4 = 0x600
    machine.ram.set_u32(0x9300, 0xF5F5F5F5)
    machine.regs.load_segment(Seg.FS, SegmentCache(0x43, 0x9300, 0xFFFF, 0x0040F300))
    machine.exits(1)
    machine.skip()
    return machine


def last(machine: Trial, number: int) -> Seen:
    return machine.exits(number)[-1]


def test_a_fresh_machine_goes_on_as_the_saved_one(make):
    machine, fresh = program(make), make("hlt", 3)
    fresh.put(0x70000, b"something of its own")
    image = machine.save()
    fresh.load(image)
    assert fresh.ram.read(0x70000, 4) == bytes(4)
    ends = last(machine, 2), last(fresh, 1)
    assert ends[0] == ends[1]
    gpr = ends[1].gpr
    assert (gpr[Gpr.EAX], gpr[Gpr.ECX], gpr[Gpr.EDX], gpr[Gpr.ESI]) == (0x123A, 5, 0x3FF00000, 0x77)
    assert gpr[Gpr.EBP] == 0xF5F5F5F5
    assert gpr[Gpr.EDI] & 0x400


def test_the_same_machine_goes_back_as_often_as_wanted(make):
    machine = program(make)
    image = machine.save()
    ends = []
    for _ in range(3):
        machine.seen.clear()
        ends.append(last(machine, 1))
        machine.ram.write(0x9100, b"\xff\xff")
        machine.ram.write(CODE, b"\xcc" * 64)
        machine.load(image)
    assert ends[0] == ends[1] == ends[2]
    assert machine.save() == image


def test_an_image_taken_in_a_handler_is_the_state_that_the_handler_left(make):
    machine, fresh, images = make("clts; mov ecx, eax; int 0x82"), make("hlt"), []

    def answer(_seen: Seen) -> None:
        machine.skip()
        machine.regs.gpr[Gpr.EAX] = 0x99
        images.append(machine.save())

    expected = machine.exits(2, answer)[1]
    fresh.load(images[0])
    assert last(fresh, 1) == expected
    assert expected.gpr[Gpr.ECX] == 0x99


def test_grants_watched_kinds_and_page_directory_come_along(make):
    machine, fresh = make("pushfd; mov eax, [0x5a000]; int 0x82", paging=True), make("hlt", 0)
    machine.watch({"pushf"})
    machine.nested.revoke(0x5A)
    fresh.load(machine.save())
    seen = fresh.exits(2, lambda seen: True)
    assert (seen[0].reason, seen[0].kind) == (Reason.SCANNED, "pushf")
    assert (seen[1].reason, seen[1].address) == (Reason.NESTED_FAULT, 0x5A000)
    assert fresh.linear.root == machine.linear.root


def test_old_translations_and_old_code_are_gone(make):
    machine = make("again: mov eax, [0x5a000]; mov ecx, 1; clts; jmp again", paging=True)
    image = machine.save()
    machine.exits(1)
    machine.map(0x5A000, 0x5B000 | PTE_P)
    machine.put(0x5B000, b"\x42")
    machine.flush_tlb()
    machine.put(CODE + 6, b"\x02")
    machine.seen.clear()
    machine.regs.eip = CODE
    assert machine.exits(1)[0].gpr[:2] == (0x42, 2)
    machine.load(image)
    machine.seen.clear()
    assert machine.exits(1)[0].gpr[:2] == (0, 1)


def test_only_what_is_not_zero_is_kept(make):
    image = make("nop").save()
    assert set(image.ram) == {CODE & ~(CHUNK - 1)}
    assert sum(map(len, image.ram.values())) == CHUNK


def test_a_machine_that_is_no_multiple_of_a_chunk(make):
    first, second = Machine(CHUNK + 0x3000), Machine(CHUNK + 0x3000)
    first.ram.write(CHUNK + 0x2FFF, b"\x01")
    first.nested.grant(CHUNK // 4096 + 2)
    second.load(first.save())
    assert second.ram.read(CHUNK + 0x2FFF, 1) == b"\x01"
    assert second.nested.flags() == first.nested.flags()
    first.close()
    second.close()


def test_no_host_pointer_is_in_an_image(make):
    """Two engines of one process differ in nothing."""
    first, second = make("nop"), make("nop")
    assert first.save() == second.save()
    image = first.save()
    for begin, end in layout.OF_THE_MACHINE:
        assert image.state[begin:end] == bytes(end - begin)


def test_another_process_goes_on(make, tmp_path):
    """Pickled by ourselves, for ourselves: this tests the image, not a file format."""
    machine = program(make)
    path = tmp_path / "image"
    path.write_bytes(pickle.dumps(machine.save()))
    script = (
        "import pickle, sys; from harness.machine.trial import Trial\n"
        "trial = Trial(b'\\xf4'); trial.load(pickle.loads(open(sys.argv[1], 'rb').read())); print(trial.exits()[0])"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(last(machine, 2))


# -- What cannot be loaded

def changed(image: object, **values: object) -> object:
    return replace(image, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unicorn": "2.0.0"}, "saved on Unicorn 2.0.0, and this is Unicorn"),
        ({"memory": 2 * MEMORY}, "2097152 bytes, and this one has 1048576"),
        ({"state": b""}, "its CPU state"),
        ({"pending": -1}, "its pending interrupts"),
        ({"pending": 1 << 32}, "its pending interrupts"),
        ({"root": 0x123}, "its page directory"),
        ({"root": MEMORY}, "its page directory"),
        ({"root": -4096}, "its page directory"),
        ({"frames": b"\7" * 255}, "its table of frames"),
        ({"frames": b"\3" * 256}, "its table of frames"),
        ({"ram": {1: bytes(CHUNK)}}, "its RAM"),
        ({"ram": {MEMORY: bytes(CHUNK)}}, "its RAM"),
        ({"ram": {-CHUNK: bytes(CHUNK)}}, "its RAM"),
        ({"ram": {0: bytes(1)}}, "its RAM"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_and_nothing_is_changed(make, values, message):
    machine = make("nop")
    before = machine.save()
    with pytest.raises(ImageError, match=message):
        machine.load(changed(before, **values))
    assert machine.save() == before


def test_an_fpu_stack_that_would_reach_beyond_the_registers_is_refused(make):
    machine = make("nop")
    image = machine.save()
    state = bytearray(image.state)
    state[layout.FPSTT : layout.FPSTT + 4] = (8).to_bytes(4, "little")
    with pytest.raises(ImageError, match="its FPU stack"):
        machine.load(changed(image, state=bytes(state)))


def test_the_fpu_stack_is_where_the_layout_says(make):
    machine = make("fninit; fld1; fld1; fld1; clts")
    machine.exits()
    assert machine.regs.words[layout.FPSTT >> 2] == 5, "8 less three pushes"


def test_an_image_cannot_leave_guest_mode_or_bring_svm(make):
    """Whatever a forged one says of the machine's own part of the state."""
    machine, other = make(bytes.fromhex("0f01d8"), 0), make("mov eax, [0x5a000]; int 0x82", 0)
    for target in (machine, other):
        image = target.save()
        state = bytearray(image.state)
        state[layout.EFER : layout.EFER + 8] = (0x1000).to_bytes(8, "little")
        hflags = int.from_bytes(state[layout.HFLAGS : layout.HFLAGS + 4], "little")
        hflags = hflags & ~layout.HF_GUEST | layout.HF_SVME
        state[layout.HFLAGS : layout.HFLAGS + 4] = hflags.to_bytes(4, "little")
        state[layout.VM_VMCB :] = b"\xff" * (layout.STATE_SIZE - layout.VM_VMCB)
        target.load(changed(image, state=bytes(state)))
    assert (machine.exits()[0].reason, machine.seen[0].vector) == (Reason.EXCEPTION, 6)
    other.nested.revoke(0x5A)
    other.flush_tlb()
    assert (other.exits()[0].reason, other.seen[0].address) == (Reason.NESTED_FAULT, 0x5A000)
