"""Channel 2 of the 8254 and port 0x61 (Intel 8254 data sheet; bits of port 0x61 as on the PC)."""

from __future__ import annotations

import pytest

from harness.devices.pit import Speaker
from harness.domain.clock import Clock

COUNTER, COMMAND, SPEAKER = 0x42, 0x43, 0x61
HZ = 1_193_182
ONE_SHOT, LATCH = 0xB0, 0x80
"""Channel 2, low byte then high byte, mode 0; channel 2, latch the count."""
GATE, DATA, OUTPUT = 1, 2, 0x20


class Board:
    """A speaker and the clock it runs by."""

    def __init__(self) -> None:
        self.clock = Clock(now=5_000_000_000)
        self.speaker = Speaker(self.clock)

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.speaker.write(port, value, size)

    def inp(self, port: int, size: int = 1) -> int | None:
        return self.speaker.read(port, size)

    def load(self, count: int) -> None:
        self.out(COMMAND, ONE_SHOT)
        self.out(COUNTER, count & 0xFF)
        self.out(COUNTER, count >> 8)

    def ticks(self, number: int) -> None:
        """Go on until so many ticks have passed: the first nanosecond after each."""
        self.clock.now += -(-number * 1_000_000_000 // HZ)

    def count(self) -> int:
        low, high = self.inp(COUNTER), self.inp(COUNTER)
        assert low is not None
        assert high is not None
        return high << 8 | low


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize("count", [1, 2, 0x1234, 11932, 0xFFFF, 0])
def test_the_output_rises_when_the_count_is_over(board: Board, count: int) -> None:
    """How a kernel calibrates its TSC. A count of 0 stands for 65536."""
    board.out(SPEAKER, GATE)
    board.load(count)
    board.ticks((count or 0x10000) - 1)
    assert board.inp(SPEAKER) == GATE
    board.ticks(1)
    assert board.inp(SPEAKER) == GATE | OUTPUT


def test_the_count_goes_down_and_on_below_zero(board: Board) -> None:
    board.out(SPEAKER, GATE)
    board.load(0x1000)
    assert board.count() == 0x1000
    board.ticks(0x0FFF)
    assert board.count() == 1
    board.ticks(1)
    assert board.count() == 0
    board.ticks(1)
    assert board.count() == 0xFFFF


def test_nothing_counts_while_the_gate_is_closed(board: Board) -> None:
    board.load(0x10)
    board.ticks(0x1000)
    assert board.count() == 0x10
    assert board.inp(SPEAKER) == 0
    board.out(SPEAKER, GATE)
    board.ticks(0xF)
    assert board.inp(SPEAKER) == GATE
    board.ticks(1)
    assert board.inp(SPEAKER) == GATE | OUTPUT


def test_an_open_gate_opened_again_does_not_start_anew(board: Board) -> None:
    board.out(SPEAKER, GATE)
    board.load(0x10)
    board.ticks(8)
    board.out(SPEAKER, GATE | DATA)
    assert board.count() == 8
    board.out(SPEAKER, 0)
    board.out(SPEAKER, GATE)
    assert board.count() == 0x10, "but one that was closed does"


def test_a_new_count_starts_anew_once_its_second_byte_is_there(board: Board) -> None:
    board.out(SPEAKER, GATE)
    board.load(0x10)
    board.ticks(4)
    board.out(COUNTER, 0x34)
    board.ticks(4)
    assert board.count() == 8, "not yet"
    board.out(COUNTER, 0x12)
    assert board.count() == 0x1234


def test_a_control_word_forgets_half_a_count(board: Board) -> None:
    board.out(COUNTER, 0x77)
    board.load(0x1234)
    assert board.count() == 0x1234


def test_a_latched_count_stands_still_until_it_is_read(board: Board) -> None:
    board.out(SPEAKER, GATE)
    board.load(0x1234)
    board.out(COMMAND, LATCH)
    board.ticks(0x234)
    assert board.count() == 0x1234
    assert board.count() == 0x1000, "read once, it follows again"


def test_a_latched_count_is_read_from_its_low_byte_on(board: Board) -> None:
    board.load(0x1234)
    assert board.inp(COUNTER) == 0x34
    board.out(COMMAND, LATCH)
    assert board.count() == 0x1234


def test_a_second_latch_is_ignored_until_the_first_is_read(board: Board) -> None:
    board.out(SPEAKER, GATE)
    board.load(0x1234)
    board.out(COMMAND, LATCH)
    assert board.inp(COUNTER) == 0x34
    board.ticks(0x234)
    board.out(COMMAND, LATCH)
    assert board.inp(COUNTER) == 0x12
    board.out(COMMAND, LATCH)
    assert board.count() == 0x1000


def test_a_latch_does_not_disturb_a_count_that_is_being_written(board: Board) -> None:
    board.out(COMMAND, ONE_SHOT)
    board.out(COUNTER, 0x34)
    board.out(COMMAND, LATCH)
    board.out(COUNTER, 0x12)
    assert board.count() == 0, "what was latched: 65536 at reset"
    assert board.count() == 0x1234


def test_a_control_word_forgets_a_latched_count(board: Board) -> None:
    board.out(COMMAND, LATCH)
    assert board.inp(COUNTER) == 0
    board.load(0x1234)
    assert board.count() == 0x1234


@pytest.mark.parametrize("command", [0x30, 0x00, 0x70, 0x40, 0xE8, 0xC0])
def test_commands_for_other_channels_are_dropped(board: Board, command: int) -> None:
    """Channels 0 and 1, and read-back (which gives counts of all three)."""
    board.load(0x1234)
    assert board.inp(COUNTER) == 0x34
    board.out(COMMAND, command)
    assert board.inp(COUNTER) == 0x12


@pytest.mark.parametrize("value", range(0, 256, 5))
def test_two_bits_of_the_speaker_port_can_be_written(board: Board, value: int) -> None:
    board.out(SPEAKER, value)
    assert board.inp(SPEAKER) == value & (GATE | DATA)


@pytest.mark.parametrize("port", [0x40, 0x41, COMMAND, 0x60, 0x62, 0x80])
def test_other_ports_have_nobody(board: Board, port: int) -> None:
    board.out(0x40, 1)
    assert board.inp(port) is None


@pytest.mark.parametrize("port", [COUNTER, COMMAND, SPEAKER])
@pytest.mark.parametrize("size", [2, 4])
def test_only_bytes_reach_it(board: Board, port: int, size: int) -> None:
    board.load(0x1234)
    for value in (GATE, LATCH):
        board.out(port, value, size)
    assert board.inp(port, size) is None
    board.ticks(1)
    assert board.inp(SPEAKER) == 0
    assert board.count() == 0x1234
