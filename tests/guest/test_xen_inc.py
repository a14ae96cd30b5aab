"""The macros of asm/xen.inc, run on a bare CPU: `int 0x82` is answered here, and every call is written down."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import unicorn
from unicorn import x86_const as uc

from harness.abi.xen import SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING, VCPU_INFO_MASK, Hypercall, SchedOp
from harness.guest import load

RAM = 4 << 20
START_INFO, STACK = 0x3000, 0x8000
ARGUMENTS = (uc.UC_X86_REG_EBX, uc.UC_X86_REG_ECX, uc.UC_X86_REG_EDX, uc.UC_X86_REG_ESI, uc.UC_X86_REG_EDI)
SURVIVORS = (uc.UC_X86_REG_EAX, *ARGUMENTS, uc.UC_X86_REG_EBP)
LIBRARY = '.include "xen_routines.inc"\npage shared_info\npage hypercall_page\n'


@dataclass
class Run:
    """What a guest did. calls: number and the five argument registers, console_io aside."""

    engine: unicorn.Uc
    symbols: dict[str, int]
    console: str = ""
    calls: list[tuple[int, ...]] = field(default_factory=list)
    shut_down: int | None = None

    def bytes_at(self, symbol: str, size: int, offset: int = 0) -> bytes:
        return bytes(self.engine.mem_read(self.symbols[symbol] + offset, size))

    def register(self, number: int) -> int:
        return int(self.engine.reg_read(number))

    def answer(self, engine: unicorn.Uc, vector: int, _: object) -> None:
        number, *arguments = (self.register(r) for r in (uc.UC_X86_REG_EAX, *ARGUMENTS))
        if vector != 0x82:
            engine.emu_stop()
            return
        if number == Hypercall.console_io:
            self.console += bytes(engine.mem_read(arguments[2], arguments[1])).decode()
        else:
            self.calls.append((number, *arguments))
        if number == Hypercall.sched_op and arguments[0] == SchedOp.shutdown:
            (self.shut_down,) = struct.unpack("<I", engine.mem_read(arguments[1], 4))
            engine.emu_stop()
        if number == Hypercall.sched_op_compat:
            self.shut_down = arguments[1]
            engine.emu_stop()
        if number == Hypercall.event_channel_op:
            engine.mem_write(arguments[1] + 8, struct.pack("<I", 7))
        engine.reg_write(uc.UC_X86_REG_EAX, 0)


Runner = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    def go(code: str, data: str = "") -> Run:
        path = tmp_path / "guest.asm"
        path.write_text(f'.include "xen.inc"\nstart:\n{code}\nhlt\n{LIBRARY}{data}\n')
        image = load(path).image
        engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        engine.mem_map(0, RAM)
        engine.mem_write(image.start, image.segments[0].data)
        engine.mem_write(START_INFO + 0x24, struct.pack("<I", 0x00345000))
        engine.mem_write(image.symbols["hypercall_page"] + 32 * 17, b"\xb8\x11\0\0\0\xcd\x82\xc3")
        engine.reg_write(uc.UC_X86_REG_ESP, STACK)
        engine.reg_write(uc.UC_X86_REG_ESI, START_INFO)
        done = Run(engine, image.symbols)
        engine.hook_add(unicorn.UC_HOOK_INTR, done.answer)
        engine.emu_start(image.entry, 0, timeout=5_000_000)
        return done

    return go


def test_including_emits_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.asm"
    path.write_text('.include "xen.inc"\nstart: hlt\n')
    assert load(path).image.segments[0].data == b"\xf4"


def test_hypercall_loads_only_what_is_given(run: Runner) -> None:
    done = run("mov ecx, 77\nmov edi, 88\nhypercall update_va_mapping, 1, , 3, 4")
    assert done.calls == [(14, 1, 77, 3, 4, 88)]


def test_hypercall_via_page(run: Runner) -> None:
    done = run("hypercall_via_page xen_version, 5, 6")
    assert [call[:3] for call in done.calls] == [(17, 5, 6)]
    assert done.register(uc.UC_X86_REG_ESP) == STACK


def test_printing(run: Runner) -> None:
    code = """
    print greeting
    print_text "a, b; c\\n"
    print_hex 0xDEAD1234
    print_text " "
    print_dec 0
    print_text " "
    mov ebx, 4294967295
    print_dec ebx
    print_text " "
    print_hex dword ptr [number]
    """
    done = run(code, 'message greeting, "hi\\n"\nnumber: .long 0xABCDEF')
    assert done.console == "hi\na, b; c\ndead1234 0 4294967295 00abcdef"


@pytest.mark.parametrize("macro", ["print greeting", 'print_text "x"', "print_hex 5", "print_dec 123", "enable_events"])
def test_registers_and_stack_survive(run: Runner, macro: str) -> None:
    registers = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
    code = "\n".join(f"mov {name}, {0x11111111 * n}" for n, name in enumerate(registers, 1))
    done = run(f"mov byte ptr [shared_info], 1\n{code}\nstc\n{macro}", 'message greeting, "x"')
    assert [done.register(r) for r in SURVIVORS] == [0x11111111 * n for n in range(1, 8)]
    assert done.register(uc.UC_X86_REG_ESP) == STACK
    if macro in ("print greeting", 'print_text "x"'):
        assert done.register(uc.UC_X86_REG_EFLAGS) & 1


@pytest.mark.parametrize(("reason", "number"), [("poweroff", 0), ("reboot", 1), ("suspend", 2), ("crash", 3)])
@pytest.mark.parametrize("macro", ["shutdown", "shutdown_compat"])
def test_shutdown(run: Runner, macro: str, reason: str, number: int) -> None:
    assert run(f"{macro} {reason}").shut_down == number


def test_expect_eq_goes_on(run: Runner) -> None:
    done = run("mov eax, -38\nexpect_error ENOSYS\nexpect_eq dword ptr [five], 5\nshutdown poweroff", "five: .long 5")
    assert (done.console, done.shut_down) == ("", 0)


def test_expect_eq_stops_and_says_where(run: Runner) -> None:
    done = run("mov ebx, 6\nexpect_eq ebx, 5\nshutdown poweroff")
    assert (done.console, done.shut_down) == ("expect_eq ebx, 5: the first is 00000006\n", 3)


def test_fail(run: Runner) -> None:
    done = run('fail "not like this"')
    assert (done.console, done.shut_down) == ("not like this\n", 3)


def test_trap_table(run: Runner) -> None:
    table = "trap_table_begin traps\ntrap VECTOR_GP, 0, start\ntrap 0x80, 3 | TRAP_INFO_IF, start\ntrap_table_end"
    done = run("hypercall set_trap_table, traps", table)
    start = struct.pack("<I", done.symbols["start"])
    assert done.bytes_at("traps", 24) == b"\x0d\0\x19\xe0" + start + b"\x80\x07\x19\xe0" + start + b"\0" * 8
    assert done.calls[0][:2] == (0, done.symbols["traps"])


def test_multicall_entry(run: Runner) -> None:
    done = run("", "list: multicall_entry update_va_mapping, 1, 2, 3")
    assert done.bytes_at("list", 32) == struct.pack("<8I", 14, 0, 1, 2, 3, 0, 0, 0)


def test_callbacks_and_kernel_stack(run: Runner) -> None:
    done = run("set_callbacks start, top\nkernel_stack top", "stack top, 64")
    start, top = done.symbols["start"], done.symbols["top"]
    assert done.calls[0] == (4, 0xE019, start, 0xE019, top, 0)
    assert done.calls[1][:3] == (3, 0xE021, top)


@pytest.mark.parametrize(("word", "number"), [("yield", 0), ("block", 1)])
def test_sched(run: Runner, word: str, number: int) -> None:
    assert run(f"sched {word}").calls[0][:2] == (29, number)


def test_map_shared_info(run: Runner) -> None:
    done = run("map_shared_info")
    # va, the machine address with P|RW|A|D, high half, UVMF_INVLPG
    assert done.calls == [(14, done.symbols["shared_info"], 0x00345063, 0, 2, 0)]
    assert done.symbols["shared_info"] % 4096 == 0
    assert done.register(uc.UC_X86_REG_ESI) == START_INFO


def test_virtual_interrupt_flag(run: Runner) -> None:
    done = run("disable_events")
    assert (done.bytes_at("shared_info", 1, VCPU_INFO_MASK), done.calls) == (b"\1", [])
    done = run("disable_events\nenable_events")
    assert (done.bytes_at("shared_info", 1, VCPU_INFO_MASK), done.calls) == (b"\0", [])
    done = run("mov byte ptr [shared_info], 1\nenable_events")
    assert [call[:3] for call in done.calls] == [(17, 0, 0)]


def test_bind_virq(run: Runner) -> None:
    done = run("bind_virq VIRQ_DEBUG")
    assert done.calls[0][:2] == (32, 1)
    assert (done.register(uc.UC_X86_REG_EAX), done.register(uc.UC_X86_REG_EDX)) == (7, 0)
    assert done.bytes_at("start", 6) == b"\x6a\0\x6a\0\x6a\x01"
    assert done.register(uc.UC_X86_REG_ESP) == STACK


@pytest.mark.parametrize("port", [0, 33, 1023])
def test_port_bits(run: Runner, port: int) -> None:
    done = run(f"mask_port {port}")
    mask = int.from_bytes(done.bytes_at("shared_info", 128, SHARED_INFO_EVTCHN_MASK), "little")
    assert mask == 1 << port
    done = run(f"mask_port {port}\nunmask_port {port}")
    assert done.bytes_at("shared_info", 128, SHARED_INFO_EVTCHN_MASK) == b"\0" * 128
    bit = f"shared_info + {SHARED_INFO_EVTCHN_PENDING + port // 8}"
    done = run(f"mov byte ptr [{bit}], {1 << port % 8}\ntake_port {port}\nsetc dl\nmov cl, [{bit}]")
    assert (done.register(uc.UC_X86_REG_DL), done.register(uc.UC_X86_REG_CL)) == (1, 0)


def test_begin_upcall(run: Runner) -> None:
    done = run("mov byte ptr [shared_info], 1\nmov dword ptr [shared_info + 4], 6\nbegin_upcall")
    assert done.bytes_at("shared_info", 8) == b"\0" * 8
    assert done.register(uc.UC_X86_REG_EAX) == 6


def test_set_timer_in_carries_into_the_high_half(run: Runner) -> None:
    done = run("mov dword ptr [shared_info + 48], 0xFFFFFFFF\nmov dword ptr [shared_info + 52], 1\nset_timer_in 2")
    assert done.calls[0][:3] == (15, 1, 2)


def test_frames_for_ring_3(run: Runner) -> None:
    done = run("user_frame 0x1234, 0x5678")
    assert done.register(uc.UC_X86_REG_ESP) == STACK - 20
    frame = struct.unpack("<5I", done.engine.mem_read(STACK - 20, 20))
    assert frame == (0x1234, 0xE02B, 0x202, 0x5678, 0xE033)


def test_iret_hypercall(run: Runner) -> None:
    done = run("mov eax, 99\niret_hypercall")
    assert done.calls[0][0] == 23
    assert struct.unpack("<I", done.engine.mem_read(STACK - 4, 4)) == (99,)


def test_leaving_for_ring_3_ends_in_the_32_bit_iret(tmp_path: Path) -> None:
    path = tmp_path / "a.asm"
    path.write_text('.include "xen.inc"\nstart: enter_user 1, 2\n')
    assert load(path).image.segments[0].data.endswith(b"\x8e\xd8\x8e\xc0\xcf")


def test_xen_cpuid(run: Runner) -> None:
    assert run("hlt\nhere: xen_cpuid").bytes_at("here", 7) == b"\x0f\x0bxen\x0f\xa2"
