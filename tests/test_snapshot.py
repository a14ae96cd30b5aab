"""Going back to an exit: the same records again, in memory and from a file, here and in another process."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from harness.devices.pit import Speaker
from harness.domain.record import ExitRecord, Verdict
from harness.guest import load
from harness.hypervisor import Domain
from harness.pv.pages import PageTables
from harness.pv.state import Domain as PvDomain
from harness.pv.state import Vcpu
from harness.snapshot import DomainPart, Frames, Snapshot, SnapshotError, SpeakerState, VcpuPart

# A timer that interrupts a counting kernel, page tables, a port, the console, flags that leak, the FPU.
SOURCE = """
.include "xen.inc"
.set PORT_SPEAKER, 0x61
.macro arm
    rdtsc
    add eax, 20000
    adc edx, 0
    hypercall set_timer_op, eax, edx
.endm
start:
    map_shared_info
    hypercall set_trap_table, traps
    set_callbacks on_event, on_failure
    bind_virq VIRQ_TIMER
    fninit
    fld1
    push 1
    hypercall physdev_op, PHYSDEVOP_set_iopl, esp
    pop eax
    in al, PORT_SPEAKER
    or al, 1
    out PORT_SPEAKER, al
    hypercall update_va_mapping, spare, 0, 0, 0
    arm
    enable_events
counting:
    inc dword ptr [counter]
    pushfd
    pop eax
    cmp dword ptr [ticks], 3
    jb counting
    fstp dword ptr [one]
    expect_eq dword ptr [one], 0x3f800000
    print_dec dword ptr [counter]
    in al, PORT_SPEAKER
    sidt [spare_idt]
    shutdown poweroff
on_event:
    pushad
    begin_upcall
    take_port 1
    inc dword ptr [ticks]
    print_text "tick\\n"
    arm
    popad
    iret_hypercall
on_failure:
    shutdown crash
.align 4
ticks: .long 0
counter: .long 0
one: .long 0
spare_idt: .long 0, 0
trap_table_begin traps
    trap_table_end
.include "xen_routines.inc"
page shared_info
page spare
"""
@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("guest") / "ticking.asm"
    written.write_text(SOURCE)
    return written


@pytest.fixture
def build(path: Path, request: pytest.FixtureRequest):
    def domain(**options: Any) -> tuple[Domain, list[ExitRecord]]:
        made = Domain(load(path), memory=4 << 20, **options)
        request.addfinalizer(made.machine.close)
        records: list[ExitRecord] = []
        made.watch(records.append)
        return made, records

    return domain


def take_at(domain: Domain, n: int) -> list[Snapshot]:
    taken: list[Snapshot] = []

    def watcher(record: ExitRecord) -> None:
        if record.n == n:
            taken.append(Snapshot.take(domain))

    domain.watch(watcher)
    return taken


def test_the_guest_does_what_the_tests_need(build):
    domain, records = build()
    result = domain.run()
    assert (result.verdict, result.reason) == (Verdict.SUCCESS, "shutdown: poweroff"), result
    assert result.console.startswith("tick\ntick\ntick\n")
    assert result.exits["slice"] >= 3, "the timer comes while the kernel counts"
    assert len(records) > 20


@pytest.mark.parametrize("options", [{}, {"audit": True}, {"max_insns": 10_000_000}], ids=["plain", "audit", "budget"])
def test_back_at_any_exit_the_same_records_follow(build, options):
    total = build(**options)[0].run()
    number = sum(total.exits.values())
    for n in sorted({1, 2, *range(3, number, max(1, number // 15)), number - 1}):
        domain, records = build(**options)
        taken = take_at(domain, n)
        first = domain.run()
        expected = records[n:]
        assert (first, taken[0].progress.exits) == (total, n)
        records.clear()
        taken[0].restore(domain)
        assert domain.run() == total
        assert records == expected, f"at exit {n}"
        domain.machine.close()


def test_back_twice_is_back_once(build):
    domain, records = build()
    taken = take_at(domain, 8)
    result = domain.run()
    runs = []
    for _ in range(3):
        records.clear()
        taken[0].restore(domain)
        assert domain.run() == result
        runs.append(list(records))
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0].n == 9


def test_going_back_to_what_lies_ahead(build):
    """A domain that has not come so far takes the state of one that has."""
    ahead, records = build()
    taken = take_at(ahead, 12)
    result = ahead.run()
    fresh, again = build()
    taken[0].restore(fresh)
    assert fresh.run() == result
    assert again == records[12:]


def test_a_file_in_this_process(build, tmp_path):
    domain, records = build()
    taken = take_at(domain, 12)
    result = domain.run()
    taken[0].write(tmp_path / "s")
    read = Snapshot.read(tmp_path / "s")
    assert read == taken[0]
    fresh, again = build()
    read.restore(fresh)
    assert fresh.run() == result
    assert again == records[12:]


def test_a_file_in_another_process(build, path, tmp_path):
    domain, records = build(audit=True)
    taken = take_at(domain, 12)
    result = domain.run()
    taken[0].write(tmp_path / "s")
    script = """
import sys
from pathlib import Path
from harness.guest import load
from harness.hypervisor import Domain
from harness.snapshot import Snapshot
domain = Domain(load(Path(sys.argv[1])), memory=4 << 20, audit=True)
domain.watch(print)
Snapshot.read(Path(sys.argv[2])).restore(domain)
print(domain.run())
"""
    command = [sys.executable, "-c", script, path, tmp_path / "s"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "".join(f"{each}\n" for each in (*records[12:], result))


# -- Pausing

@pytest.mark.parametrize("options", [{}, {"audit": True}, {"max_insns": 10_000_000}], ids=["plain", "audit", "budget"])
@pytest.mark.parametrize("every", [1, 2, 7])
def test_pauses_change_nothing(build, options, every):
    whole, expected = build(**options)
    result = whole.run()
    domain, records = build(**options)
    domain.watch(lambda record: domain.pause() if record.n % every == 0 else None)
    pauses = 0
    while (found := domain.run()).reason == "not finished":
        pauses += 1
    assert records == expected
    assert found == result
    assert pauses >= len(expected) // every - 1


def test_a_snapshot_between_runs(build):
    domain, records = build(audit=True)
    domain.watch(lambda record: domain.pause() if record.n == 9 else None)
    domain.run()
    between = Snapshot.take(domain)
    result = domain.run()
    expected = records[9:]
    records.clear()
    between.restore(domain)
    assert domain.run() == result
    assert records == expected


def test_a_snapshot_of_the_end_is_the_end(build):
    domain, _ = build()
    result = domain.run()
    end = Snapshot.take(domain)
    fresh, records = build()
    end.restore(fresh)
    assert fresh.run() == result
    assert records == []


# -- Nothing forgotten

# What a snapshot leaves out of each, and why that is right.
LEFT_OUT: dict[type, set[str]] = {
    # What it is made of, what the builder decides for good, and devices, which are looked at below.
    PvDomain: {"name", "clock", "ports", "pages", "m2p", "private_l1", "tss", "id"},
    # The machine's own; the present exit; code of the user's own; what the builder decides for good.
    Vcpu: {"domain", "cpu", "regs", "ram", "linear", "decoder", "seen", "work", "listening", "rows", "emulators",
           "shared", "full", "audit"},
    # `examined` only ever counts up, and differences of it are looked at within one hypercall.
    PageTables: {"_ram", "_flush", "xen_slots", "examined"},
    Speaker: {"_clock"},
}  # fmt: skip


def test_every_attribute_is_in_a_snapshot_or_left_out_for_a_reason(build):
    domain, _ = build()
    vcpu, xen = domain.vcpu, domain.vcpu.domain
    for thing, part in ((xen, DomainPart), (vcpu, VcpuPart), (xen.pages, Frames), (xen.ports, SpeakerState)):
        kept = {each.name for each in fields(part)} - {"frames", "speaker"}
        assert kept | LEFT_OUT[type(thing)] == set(vars(thing)), type(thing)


# -- What is refused

@pytest.fixture(scope="module")
def file(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    domain = Domain(load(path), memory=4 << 20)
    taken = take_at(domain, 12)
    domain.run()
    domain.machine.close()
    written = tmp_path_factory.mktemp("snapshot") / "s"
    taken[0].write(written)
    return written


PREAMBLE = len(b"harness snapshot\n")
START = PREAMBLE + 12


def header_and_rest(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack_from("<I", content, PREAMBLE + 4)[0]
    return json.loads(content[START : START + length]), content[START + length :]


def forged(header: object, rest: bytes, form: int = 1) -> bytes:
    """A file whose checksum is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"harness snapshot\n" + struct.pack("<III", form, len(text), zlib.crc32(text + rest)) + text + rest


def refused(tmp_path: Path, content: bytes) -> str:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    with pytest.raises(SnapshotError) as caught:
        Snapshot.read(damaged)
    message = str(caught.value)
    assert message.startswith(f"{damaged}: ")
    assert "\n" not in message
    return message


FOREIGN = [b"", b"\n", b"\x7fELF" + bytes(100), b"harness snapshot\n", b"; start:\n nop\n" * 9]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_file_is_refused(tmp_path, content):
    assert "not a snapshot of the harness" in refused(tmp_path, content)


def test_a_truncated_file_is_refused(tmp_path, file):
    content = file.read_bytes()
    for size in (START, START + 10, len(content) // 2, len(content) - 1):
        assert "damaged" in refused(tmp_path, content[:size])
    refused(tmp_path, content[: START - 1])


def test_any_changed_byte_is_noticed(tmp_path, file):
    content = file.read_bytes()
    for at in range(0, len(content), len(content) // 97):
        changed = bytearray(content)
        changed[at] ^= 0x10
        refused(tmp_path, bytes(changed))


def test_something_behind_it_is_noticed(tmp_path, file):
    assert "damaged" in refused(tmp_path, file.read_bytes() + b"x")


def test_another_format_says_which(tmp_path, file):
    header, rest = header_and_rest(file.read_bytes())
    assert "format 2; this harness reads format 1" in refused(tmp_path, forged(header, rest, form=2))


def change(header: dict[str, Any], *where: Any, to: Any) -> None:
    for name in where[:-1]:
        header = header[name]
    if to is None:
        del header[where[-1]]
    else:
        header[where[-1]] = to


@pytest.mark.parametrize(
    ("where", "to", "message"),
    [
        (("clock", "now"), "soon", "_Header.clock.now is not int"),
        (("vcpu", "state", "traps"), [1], r"_Header.vcpu.state.traps[0] is not dict"),
        (("vcpu",), None, "_Header has not the fields of a _Header: vcpu"),
        (("domain", "state", "p2m"), ["0"], "_Header.domain.state.p2m holds something that is not int"),
        (("progress", "last"), {}, "_Header.progress.last is not list"),
        (("__class__",), "os.system", "_Header has not the fields of a _Header: __class__"),
        (("memory",), 0, "memory cannot be"),
        (("memory",), 1 << 40, "memory cannot be"),
        (("ram",), [0, 0], "memory cannot be"),
        (("ram",), [1], "lies outside its machine"),
        (("ram",), [1 << 30], "lies outside its machine"),
        (("ram",), [], "not of the size that its header says"),
    ],
)
def test_a_forged_header_is_refused(tmp_path, file, where, to, message):
    header, rest = header_and_rest(file.read_bytes())
    change(header, *where, to=to)
    assert message in refused(tmp_path, forged(header, rest))


@pytest.mark.parametrize("header", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]"])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    refused(tmp_path, forged(header, b""))


@pytest.mark.parametrize("rest", [b"", b"nothing compressed", zlib.compress(b""), zlib.compress(bytes(64 << 20))])
def test_memory_that_is_not_what_the_header_says_is_refused(tmp_path, file, rest):
    header, _ = header_and_rest(file.read_bytes())
    assert "memory of the snapshot" in refused(tmp_path, forged(header, rest))


@pytest.mark.parametrize(
    ("where", "to", "message"),
    [
        (("guest",), "other", "guest: other in the snapshot, ticking in the domain"),
        (("full",), True, "full policy: True in the snapshot, False in the domain"),
        (("audit",), True, "audit: True in the snapshot, False in the domain"),
        (("unicorn",), "2.0.1", "saved on Unicorn 2.0.1, and this is Unicorn"),
        (("pending",), -1, "its pending interrupts cannot be"),
        (("root",), 3, "its page directory cannot be"),
        (("kinds",), ["nonsense"], "its kinds of instruction cannot be"),
        (("domain", "frames", "count"), [], "frames are not those of its memory"),
        (("domain", "frames", "owned"), "00", "frames are not those of its memory"),
    ],
)
def test_a_snapshot_that_does_not_fit_its_domain_is_refused(tmp_path, file, build, where, to, message):
    header, rest = header_and_rest(file.read_bytes())
    change(header, *where, to=to)
    (tmp_path / "s").write_bytes(forged(header, rest))
    snapshot = Snapshot.read(tmp_path / "s")
    domain, _ = build()
    with pytest.raises(SnapshotError, match=message):
        snapshot.restore(domain)
    assert domain.run().verdict is Verdict.SUCCESS, "the domain is as it was"


def test_a_machine_of_another_size_is_refused(file, path):
    domain = Domain(load(path), memory=8 << 20)
    with pytest.raises(SnapshotError, match="frames are not those of its memory"):
        Snapshot.read(file).restore(domain)
    domain.machine.close()


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Snapshot.read(tmp_path / "none")
