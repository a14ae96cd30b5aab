"""Guests: from a file to an image with its modes, options and expectation."""

from harness.guest.head import parse_memory
from harness.guest.loader import load
from harness.guest.model import Expectation, Guest, GuestError, RunOptions
from harness.guest.shelf import asm_path, find, guests_path, name_of, shipped_guests

__all__ = [
    "Expectation",
    "Guest",
    "GuestError",
    "RunOptions",
    "asm_path",
    "find",
    "guests_path",
    "load",
    "name_of",
    "parse_memory",
    "shipped_guests",
]
