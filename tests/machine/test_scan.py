"""No instruction without an intercept runs unseen, however its block came to be."""

from __future__ import annotations

import pytest

from harness.abi.x86 import PTE_P, PTE_RW, Gpr
from harness.code.decoder import Decoder
from harness.domain.exits import Reason
from harness.machine.scan import BlockScan
from harness.machine.trial import CODE, Seen, Trial
from tests.machine.raw import asm

IN = b"\xec"
CLTS = b"\x0f\x06"
IOPL_1 = 0x1002


@pytest.fixture
def make(request: pytest.FixtureRequest):
    def build(code: str | bytes, **options: object) -> Trial:
        machine = Trial(asm(code) if isinstance(code, str) else code, eflags=IOPL_1, **options)
        request.addfinalizer(machine.close)
        return machine

    return build


def scanned(seen: list[Seen]) -> list[int]:
    return [s.at for s in seen if s.reason is Reason.SCANNED]


def test_in_at_every_place_of_a_block(make):
    for at in range(40):
        machine = make(b"\x90" * at + IN + b"\x90" * (40 - at) + CLTS)
        assert scanned(machine.exits(2)) == [at]


def test_in_behind_a_jump_a_call_and_a_return(make):
    machine = make("jmp one; ud2; one: in al, dx; call two; in al, dx; int 0x82; two: in al, dx; ret")
    assert scanned(machine.exits(4)) == [4, 13, 10]


def test_in_behind_every_kind_of_exit(make):
    for before in ("clts", "int 0x80", "cpuid", "ud2", "in al, 0x80"):
        machine = make(f"{before}; in al, dx; int 0x82")
        assert scanned(machine.exits(3))[-1] == len(asm(before))


def test_in_as_the_first_instruction_of_each_run(make):
    machine = make(IN * 5 + CLTS)
    for number in range(1, 6):
        machine.exits(number)
        machine.skip()
    assert scanned(machine.seen) == [0, 1, 2, 3, 4]


def test_in_after_slices(make):
    machine = make(b"\x90" * 10 + IN + CLTS)
    for _ in range(10):
        machine.exits(1, count=1)
    assert machine.seen == []
    assert scanned(machine.exits(2, count=5)) == [10]


@pytest.mark.parametrize("at", [0xFFC, 0xFFD, 0xFFE, 0xFFF, 0x1000])
def test_in_across_a_page_boundary(make, at):
    """`in eax, 0x80` with a prefix: three bytes that begin on one page and may end on the next."""
    machine = make("nop")
    machine.put(CODE, b"\x90" * at + b"\x66\xe5\x80" + CLTS)
    assert scanned(machine.exits(2)) == [at]


@pytest.mark.parametrize("paging", [False, True])
def test_in_on_the_second_page_of_a_block_written_by_the_host(make, paging):
    """A host write to the part of a block on its second page is seen too."""
    begin = 0xFF0
    machine = make("nop", paging=paging)
    machine.put(CODE + begin, b"\x90" * 0x20 + CLTS)

    def again(_seen: Seen) -> None:
        machine.put(CODE + 0x1008, IN)
        machine.regs.eip = CODE + begin

    machine.regs.eip = CODE + begin
    assert scanned(machine.exits(2, again)) == [0x1008]


@pytest.mark.parametrize("at", range(0, 64, 9))
def test_every_host_write_to_translated_code_is_seen(make, at):
    machine = make(b"\x90" * 64 + CLTS)

    def again(_seen: Seen) -> None:
        machine.put(CODE + at, IN)
        machine.regs.eip = CODE

    assert scanned(machine.exits(2, again)) == [at]


def test_in_written_by_the_guest_into_the_block_that_runs(make):
    """mov byte ptr [behind], 0xec; behind: nop"""
    behind = CODE + 7
    machine = make(b"\xc6\x05" + behind.to_bytes(4, "little") + IN + b"\x90" + CLTS)
    assert scanned(machine.exits(2)) == [7]


def test_in_written_by_a_guests_string_copy(make):
    machine = make("mov esi, 0x9100; mov edi, 0x9200; mov ecx, 3; rep movsb; mov eax, 0x9200; jmp eax")
    machine.put(0x9100, IN + CLTS)
    machine.put(0x9200, b"\x90\x90\x90")
    assert scanned(machine.exits(2)) == [0x9200 - CODE]


def test_in_that_goes_away_and_comes_back(make):
    """Hooks stay where they are: what is there now decides."""
    machine = make(b"\x90" + IN + CLTS)

    def answer(seen: Seen) -> None:
        if seen.reason is Reason.SCANNED:
            machine.put(CODE + 1, b"\x40")  # inc eax
        else:
            machine.put(CODE + 1, IN)
        machine.regs.eip = CODE

    seen = machine.exits(4, answer)
    assert [(s.reason, s.at) for s in seen] == [(Reason.SCANNED, 1), (Reason.EXCEPTION, 2)] * 2
    assert seen[1].gpr[Gpr.EAX] == 1


def test_in_under_two_linear_addresses(make):
    """One frame, mapped twice: each address has its own block."""
    machine = make("nop", paging=True)
    machine.put(CODE, b"\x90" + IN + CLTS)
    machine.map(0x5A000, CODE | PTE_P | PTE_RW)

    def answer(seen: Seen) -> None:
        machine.skip()
        if seen.at == 2:
            machine.regs.eip = 0x5A000

    assert scanned(machine.exits(4, answer)) == [1, 0x5A001 - CODE]


def test_in_written_through_the_other_linear_address(make):
    machine = make("nop; clts; mov byte ptr [0x5a000], 0xec; clts; jmp 0x10000", paging=True)
    machine.map(0x5A000, CODE | PTE_P | PTE_RW)
    assert scanned(machine.exits(3)) == [0]


def test_a_block_whose_page_went_away_behind_the_cpus_back(make):
    """The CPU may go on with a translation that it still has: it is dropped, and the fault comes."""
    machine = make("clts; jmp 0x11000", paging=True)
    machine.put(0x11000, IN + CLTS)

    def answer(_seen: Seen) -> None:
        machine.skip()
        machine.map(0x11000, 0)
        machine.linear.flush()

    seen = machine.exits(2, answer)[1]
    assert (seen.reason, seen.address) == (Reason.EXCEPTION, 0x11000)


def test_kinds_watched_later_are_seen_in_code_that_ran_before(make):
    machine = make("pushfd; pop eax; clts")

    def answer(_seen: Seen) -> None:
        machine.watch({"pushf"})
        machine.regs.eip = CODE

    seen = machine.exits(2, answer)
    assert [(s.reason, s.kind) for s in seen][1] == (Reason.SCANNED, "pushf")


def test_a_kind_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match="no such kind: nonsense"):
        make("nop").watch({"nonsense"})


def test_more_places_than_hooks_are_still_all_seen(make):
    """The hooks are thrown away together, and code with them."""
    number = 3000
    machine = make(b"\x90")
    machine.put(CODE, (IN + b"\xeb\x00") * number + CLTS)
    seen = machine.exits(number + 1)
    assert scanned(seen) == [3 * n for n in range(number)]


def test_a_scan_finds_what_the_pattern_says_only_at_instructions():
    hooks: list[int] = []
    scan = BlockScan(Decoder(), lambda at: hooks.append(at) or len(hooks), lambda number: None)
    assert scan.look(0x1000, b"\xb8" + IN * 4 + IN)
    assert hooks == [0x1005]
    assert not scan.look(0x1000, b"\xb8" + IN * 4 + IN), "nothing new"
    assert scan.reach(0x1000, b"\x90\x0f\x06") == 0


def test_decoding_goes_no_further_than_there_is_something_to_find():
    decoder = Decoder()
    scan = BlockScan(decoder, lambda at: 1, lambda number: None)
    assert scan.look(0x1000, b"\x90" + IN + b"\x90" * 500)
    assert decoder.misses == 2
