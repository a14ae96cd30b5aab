"""The head of a guest's source: what it sets, and a line number for everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.domain.record import Verdict
from harness.guest.head import Head, parse_head, parse_memory
from harness.guest.model import Expectation, GuestError, RunOptions

PATH = Path("guest.asm")


def head(*lines: str, path: Path = PATH) -> Head:
    found = parse_head("\n".join(["; ---", *(f"; {line}" for line in lines), "; ---", "start: hlt"]), path)
    assert found is not None
    return found


def error(*lines: str) -> str:
    with pytest.raises(GuestError) as caught:
        head(*lines)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_text("x")
    found = head(
        'title = "All of it"',
        'modes = ["bare", "vmx"]',
        "",
        "[run]",
        'policy = "full"',
        "audit = true",
        'memory = "512K"',
        'cmdline = "a=b"',
        'modules = ["initrd"]',
        "max_exits = 10",
        "max_insns = 20",
        'exit_on = ["cpuid", "hlt"]',
        "[expect]",
        'verdict = "failure"',
        r'console = "one\ntwo\n"',
        "exits = { gp = 2, hypercall = 0 }",
        "hypercalls.console_io = 3",
        'reason = "crash"',
        "[expect.registers]",
        "eax = -38",
        "ebx = 0xFFFFFFFF",
        path=tmp_path / "guest.asm",
    )
    assert found.title == "All of it"
    assert found.modes == ("bare", "vmx")
    assert found.run == RunOptions("full", True, 512 << 10, "a=b", (tmp_path / "initrd",), 10, 20, ("cpuid", "hlt"))
    assert found.expect["bare"] == Expectation(
        Verdict.FAILURE,
        "one\ntwo\n",
        {"gp": 2, "hypercall": 0},
        {"console_io": 3},
        {"eax": 0xFFFFFFDA, "ebx": 0xFFFFFFFF},
        None,
        "crash",
    )
    assert found.expect["vmx"] == found.expect["bare"]


def test_empty_head_means_the_defaults() -> None:
    found = head()
    assert found == Head()
    assert (found.modes, found.run.memory, found.expect["pv"].verdict) == (("pv",), 16 << 20, Verdict.SUCCESS)


def test_hash_comments_and_blank_lines() -> None:
    found = parse_head('\n\n  # ---\n#title = "A"\n\n  ;  modes = ["bare"]\n;---\n', PATH)
    assert found is not None
    assert (found.title, found.modes) == ("A", ("bare",))


@pytest.mark.parametrize("text", ["", "\n\n", "start: hlt\n", "; a comment\n; ---\n; title = 1\n; ---\n"])
def test_no_head(text: str) -> None:
    assert parse_head(text, PATH) is None


def test_a_mode_overrides_key_by_key() -> None:
    found = head(
        'modes = ["bare", "vmx"]',
        "[expect]",
        'console = "same"',
        "exits = { gp = 1 }",
        "[expect.vmx]",
        "exits = { cpuid = 2 }",
    )
    assert found.expect["bare"] == Expectation(console="same", exits={"gp": 1})
    assert found.expect["vmx"] == Expectation(console="same", exits={"cpuid": 2})


def test_a_reason_for_a_crash_means_the_verdict() -> None:
    assert head("[expect]", 'crash = "no handler"').expect["pv"] == Expectation(Verdict.CRASH, crash="no handler")


def test_a_crash_in_one_mode_only() -> None:
    found = head('modes = ["pv", "bare"]', "[expect]", 'crash = "no"', "[expect.bare]", 'verdict = "success"')
    assert found.expect["pv"].verdict is Verdict.CRASH
    assert found.expect["bare"] == Expectation()


def test_crash_with_another_verdict_contradicts_itself() -> None:
    message = error("[expect]", 'verdict = "success"', 'crash = "no"')
    assert message == "guest.asm:4: crash contradicts verdict 'success'"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['titel = "x"'], "guest.asm:2: unknown key 'titel' (known: title, modes, run, expect)"),
        (["title = 3"], "guest.asm:2: title must be text"),
        (['modes = "pv"'], "guest.asm:2: modes must be a list"),
        (["modes = [1]"], "guest.asm:2: modes must be text"),
        (["modes = []"], "guest.asm:2: modes must name at least one of pv, bare, vmx"),
        (['title = "x"', 'modes = ["pv", "svm"]'], "guest.asm:3: unknown mode 'svm' (known: pv, bare, vmx)"),
        (["run = 1"], "guest.asm:2: run must be a table"),
        (["[run]", "polcy = 1"], "guest.asm:3: unknown key in [run] 'polcy'"),
        (["[run]", 'policy = "kvm"'], "guest.asm:3: unknown policy 'kvm' (known: xen, full)"),
        (["[run]", "audit = 1"], "guest.asm:3: audit must be true or false"),
        (["[run]", "", "max_exits = 0"], "guest.asm:4: max_exits must be greater than 0"),
        (["[run]", "max_insns = true"], "guest.asm:3: max_insns must be a whole number"),
        (["[run]", "memory = true"], "guest.asm:3: memory must be text like '16M' or a number of bytes"),
        (["[run]", 'memory = "lots"'], "guest.asm:3: memory 'lots' is not a size"),
        (["[run]", "memory = 65537"], "guest.asm:3: memory 65537 is not a multiple of 4 KiB"),
        (["[run]", 'memory = "4K"'], "guest.asm:3: memory 4K is not between 64K and 1G"),
        (["[run]", 'modules = ["absent"]'], "guest.asm:3: no such module: absent"),
        (["[expect]", 'verdict = "pass"'], "guest.asm:3: unknown verdict 'pass' (known: success, failure,"),
        (["[expect]", "console = []"], "guest.asm:3: console must be text"),
        (["[expect]", "exits = { gpf = 1 }"], "guest.asm:3: unknown exit kind 'gpf' (known: de, db,"),
        (["[expect.exits]", "gp = 1", "pf = -1"], "guest.asm:4: pf must not be negative"),
        (["[expect]", "exits.gp = 1.5"], "guest.asm:3: gp must be a whole number"),
        (["[expect.hypercalls]", "dom0_op = 1"], "guest.asm:3: unknown hypercall 'dom0_op'"),
        (["[expect.registers]", "eax = 1", "rax = 1"], "guest.asm:4: unknown register 'rax'"),
        (["[expect.registers]", "eax = 0x100000000"], "guest.asm:3: eax does not fit in 32 bits"),
        (["[expect]", "speed = 1"], "guest.asm:3: unknown key in [expect] 'speed'"),
        (["[expect]", "[expect.pv]", "speed = 1"], "guest.asm:4: unknown key in [expect] 'speed'"),
        (["[expect]", "[expect.kvm]", "x = 1"], "guest.asm:3: unknown key in [expect] 'kvm'"),
        (["[expect.vmx]", 'console = ""'], "guest.asm:2: [expect.vmx], but vmx is not among the modes"),
        (['title = "x'], "guest.asm:2: bad TOML in the head: "),
        (['title = "x"', "modes = [", '"pv"'], "guest.asm:4: bad TOML in the head: "),
        (['title = "x"', "", 'title = "y"'], "guest.asm:4: bad TOML in the head: "),
    ],
)
def test_errors_name_the_line(lines: list[str], message: str) -> None:
    assert error(*lines).startswith(message)


@pytest.mark.parametrize("text", ['; ---\n; title = "x"\n', '; ---\n; title = "x"\nstart: hlt\n; ---\n'])
def test_a_head_that_is_not_closed(text: str) -> None:
    with pytest.raises(GuestError, match=r"guest.asm:[13]: the head is not closed by a line '; ---'"):
        parse_head(text, PATH)


@pytest.mark.parametrize(("text", "size"), [("64K", 1 << 16), ("1g", 1 << 30), ("16M", 1 << 24), (65536, 1 << 16)])
def test_memory(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "M", "-16M", "1.5M", "16T", "2G", "²M"])
def test_bad_memory(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse_memory(text)
