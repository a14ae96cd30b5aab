"""Guests without a head, from bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.domain.image import Image, Segment
from harness.guest import Guest
from harness.guest.model import Expectation, RunOptions

ENTRY = 0x100000


@pytest.fixture
def guest_of():
    """Makes a guest of machine code that is loaded and entered at 1 MiB."""

    def make(code: bytes, memory: int = 2 << 20) -> Guest:
        image = Image((Segment(ENTRY, code, len(code)),), ENTRY)
        expect = {mode: Expectation() for mode in ("pv", "bare", "vmx")}
        return Guest("bytes", Path("bytes.bin"), "", ("pv",), RunOptions(memory=memory), expect, image, False)

    return make
