"""A thousand guests of random bytes: whatever they execute, they end with a verdict and have reached nothing."""

from __future__ import annotations

import random
from functools import cache

import pytest

from harness.code.assembler import assemble
from harness.domain.record import Verdict
from harness.hypervisor import Domain

from .invariants import broken

SEEDS = 1000
CHUNKS = 20
FAVOURITES = (
    b"\x0f\x06", b"\xcd\x82", b"\xcd\x80", b"\xfa", b"\xfb", b"\xf4", b"\x0f\x20", b"\x0f\x22", b"\x0f\x01",
    b"\x0f\x00", b"\xe4", b"\xec", b"\x6c", b"\x6e", b"\x9c", b"\x9d",
    b"\xcf", b"\x8e", b"\x8c", b"\xea", b"\x9a", b"\xcb", b"\xf0",
    b"\x0f\x30", b"\x0f\x32", b"\x0f\xa2", b"\x0f\x31", b"\x0f\x33", b"\x0f\xc7", b"\x0f\x34", b"\x0f\x05", b"\xcc",
    b"\xce", b"\xf1", b"\x66", b"\xf3", b"\x2e", b"\x0f\x0b", b"\x62", b"\xe8\x00\x00\x00\x00", b"\xc3", b"\x0f\x21",
    b"\x0f\x23", b"\xb8\x01\x00\x00\x00", b"\x89\xe6", b"\x89\xe3",
)  # fmt: skip


SURVIVE = """
    mov ebx, offset table
    xor eax, eax
    int 0x82
    mov ebx, 0
    mov ecx, 0
    jmp code
plain:
    mov dword ptr [esp - 60], eax
    pop eax
    add eax, 2
    push eax
    mov eax, dword ptr [esp - 60]
    iretd
coded:
    add esp, 4
    jmp plain
table:
    .irp vector, 0, 1, 3, 4, 5, 6, 7, 16, 19, 128, 129
    .byte \\vector, 3
    .word 0xE019
    .long plain
    .endr
    .irp vector, 10, 11, 12, 13, 14, 17
    .byte \\vector, 3
    .word 0xE019
    .long coded
    .endr
    .long 0, 0
code:
"""
"""Handlers that step two bytes on, so that a program goes on after most of its faults."""


@cache
def prologue() -> bytes:
    return assemble(SURVIVE).code


def program(seed: int) -> bytes:
    """Random bytes, every third piece of them the beginning of an instruction that matters here."""
    dice = random.Random(seed)
    code = prologue()
    while len(code) < 900:
        code += dice.choice(FAVOURITES) if dice.random() < 0.33 else dice.randbytes(dice.randrange(1, 6))
    return code


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_bytes_end_with_a_verdict(chunk, guest_of):
    for seed in range(chunk, SEEDS, CHUNKS):
        policy = ("xen", "full")[seed % 2]
        domain = Domain(guest_of(program(seed)), policy=policy, audit=seed % 3 == 0, max_exits=500, max_insns=20_000)
        try:
            result = domain.run()
            assert isinstance(result.verdict, Verdict), seed
            assert result.reason, seed
            assert not broken(domain.vcpu), seed
        finally:
            domain.machine.close()
