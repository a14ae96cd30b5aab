import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness
from harness.cli import main
from tests import invented

ROOT = Path(__file__).resolve().parents[2]
INVENTED = "import sys; from tests import invented; invented.install(); from harness.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _invented_hypervisor(monkeypatch):
    monkeypatch.setitem(sys.modules, "harness.hypervisor", invented)
    monkeypatch.setattr(harness, "hypervisor", invented, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def guest(tmp_path):
    return lambda name: str(invented.flat_guest(tmp_path, name))


@pytest.fixture
def harness_process(tmp_path):
    def start(*arguments, **more):
        command = [sys.executable, "-c", INVENTED, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | more.pop("env", {})
        return subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **more)

    return start


def run(capfd, *arguments):
    """Status, standard output, standard error."""
    status = main(["run", *arguments])
    out, err = capfd.readouterr()
    return status, out, err


# Exit status


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("good", 0),
        ("crashes-as-told", 0),
        ("skips", 0),
        ("fails", 1),
        ("differs", 1),
        ("crashes", 3),
        ("errs", 3),
        ("aborts", 3),
        ("spins", 4),
    ],
)
def test_the_status_says_how_it_ended(capfd, guest, name, status):
    assert run(capfd, guest(name))[0] == status


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (("good", "fails"), 1),
        (("fails", "spins"), 4),
        (("spins", "fails", "crashes"), 3),
        (("crashes", "missing"), 2),
    ],
)
def test_of_several_the_worst_counts(capfd, tmp_path, guest, names, status):
    files = [guest(name) for name in names]
    if "missing" in names:
        (tmp_path / "missing.bin").write_bytes(b"")
    assert run(capfd, *files)[0] == status


# The user's mistakes: one line, status 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "name guests (see harness list) or files to run, or say --all"),
        (["run", "--all", "x.bin"], "--all or GUEST, not both"),
        (["run", "--nonsense"], "No such option"),
        (["run", "--mode", "xvm", "x.bin"], "'xvm' is not one of"),
        (["run", "--memory", "lots", "x.bin"], "'lots' is not a size"),
        (["run", "--max-exits", "0", "x.bin"], "--max-exits"),
        (["run", "--json", "no/such/folder/x", "{good}"], "no/such/folder/x: No such file or directory"),
        (["run", "--trace=no/such/folder/x", "{good}"], "no/such/folder/x: No such file or directory"),
        (["run", "no/such.asm"], "no/such.asm: no such file"),
        (["run", "nobody"], "no guest is called 'nobody'"),
        (["run", "{empty}"], "the file is empty"),
        (["run", "--flat", "{folder}"], "is a directory"),
        (["asm", "no/such.asm"], "no/such.asm"),
    ],
)
def test_one_line_and_status_2(capfd, guest, tmp_path, arguments, said):
    (tmp_path / "empty.bin").write_bytes(b"")
    places = {"good": guest("good"), "empty": str(tmp_path / "empty.bin"), "folder": str(tmp_path)}
    status = main([argument.format(**places) for argument in arguments])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("harness: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_bad_head_is_named_by_its_line(capfd, tmp_path):
    source = tmp_path / "x.asm"
    source.write_text("; ---\n; title = \"x\"\n; modes = 5\n; ---\nstart: hlt\n")
    status, _, err = run(capfd, str(source))
    assert status == 2
    assert err.startswith(f"harness: {source}:3: ")
    assert err.count("\n") == 1


def test_bad_assembly_is_named_by_its_line(capfd, tmp_path):
    source = tmp_path / "x.asm"
    source.write_text("start:\n    nop\n    no_such_thing eax\n")
    status, _, err = run(capfd, str(source))
    assert status == 2
    assert err.startswith(f"harness: {source}:3: ")
    assert err.count("\n") == 1


def test_a_mistake_in_one_guest_does_not_hide_the_others(capfd, tmp_path, guest):
    bad = tmp_path / "bad.asm"
    bad.write_text("start:\n    no_such_thing\n")
    status, out, err = run(capfd, str(bad), guest("good"))
    assert status == 2
    assert "good" in out
    assert err.startswith(f"harness: {bad}:2: ")


# What is printed


def test_one_guest_is_told_in_full(capfd, guest):
    status, out, err = run(capfd, guest("good"))
    assert (status, err) == (0, "")
    assert out.split("\n") == [
        "hello",
        "good (pv): success: shutdown: poweroff",
        "exits: 3",
        "  3  gp  #GP general protection",
        "",
    ]


def test_many_guests_are_told_in_rows_and_the_odd_ones_in_full(capfd, guest):
    _, out, _ = run(capfd, guest("good"), guest("differs"), guest("a"))
    lines = out.split("\n")
    assert [line.split()[0] for line in lines[:4]] == ["guest", "good", "differs", "a"]
    assert "  console: expected x, got y" in lines
    assert lines[-2] == "3 runs: 3 success; 1 not as expected"


def test_a_crash_is_reported(capfd, guest):
    _, out, _ = run(capfd, guest("crashes"))
    assert "crashes (pv) as it stood at its crash: no handler" in out
    assert "last exits: 3" in out


def test_nothing_of_the_guests_drives_the_terminal(capfd, guest):
    _, out, _ = run(capfd, guest("hostile"))
    assert out.startswith("\\x1b[2J[bold red]\\x07\n")


def test_jobs_do_not_change_what_is_printed(capfd, guest):
    files = [guest(name) for name in ("naps", "good", "crashes", "aborts")]
    assert run(capfd, *files, "--jobs", "1") == run(capfd, *files, "--jobs", "4")


def test_a_guest_runs_in_the_modes_of_its_head_only(capfd, tmp_path):
    source = tmp_path / "x.asm"
    source.write_text("; ---\n; modes = [\"pv\", \"vmx\"]\n; ---\nstart: hlt\n")
    _, out, _ = run(capfd, str(source))
    assert [line.split()[1] for line in out.split("\n")[1:3]] == ["pv", "vmx"]
    status, out, _ = run(capfd, str(source), "--mode", "bare")
    assert (status, out) == (0, "x (bare): skip: not written for bare\n")


# Trace


def test_trace_alone_goes_to_standard_output(capfd, guest):
    _, out, _ = run(capfd, "--trace", guest("good"))
    lines = out.split("\n")
    assert lines[0] == "good (pv)"
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert lines[5] == "hello"


def test_trace_to_a_file(capfd, guest, tmp_path):
    _, out, _ = run(capfd, guest("good"), f"--trace={tmp_path / 't'}")
    assert "emulate_clts" not in out
    assert (tmp_path / "t").read_text().count("emulate_clts") == 3


def test_traces_of_many_are_in_order(capfd, guest):
    _, out, _ = run(capfd, "--trace", guest("naps"), guest("good"))
    assert out.index("naps (pv)\n") < out.index("naps (pv): success") < out.index("good (pv)\n")
    assert out.endswith("2 runs: 2 success; all as expected\n")


# JSON


def test_json_on_standard_output_is_alone_there(capfd, guest):
    status, out, _ = run(capfd, "--json", "-", guest("good"), guest("crashes"))
    told = [json.loads(line) for line in out.splitlines()]
    assert [(it["type"], it["guest"]) for it in told] == [("exit", "good")] * 3 + [("end", "good")] + [
        ("exit", "crashes")
    ] * 3 + [("end", "crashes")]
    assert status == 3


def test_json_and_trace_at_once(capfd, guest):
    _, out, err = run(capfd, "--json", "-", "--trace", guest("good"))
    assert all(json.loads(line) for line in out.splitlines())
    assert err.count("emulate_clts") == 3


def test_json_to_a_file_leaves_the_rest(capfd, guest, tmp_path):
    _, out, _ = run(capfd, "--json", str(tmp_path / "j"), guest("good"))
    assert out.startswith("hello\n")
    assert [json.loads(line)["type"] for line in (tmp_path / "j").read_text().splitlines()] == ["exit"] * 3 + ["end"]


def test_kill_9_loses_nothing_that_was_told(harness_process, guest, tmp_path):
    process = harness_process("run", "--json", "j", guest("hangs"))
    wait_for(lambda: (tmp_path / "j").exists() and (tmp_path / "j").read_text().count("\n") == 3)
    process.kill()
    process.wait()
    assert all(json.loads(line) for line in (tmp_path / "j").read_text().splitlines())


# Pipes, terminals, signals


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_broken_pipe_is_quiet(harness_process, guest, jobs):
    arguments = ("run", "--trace", "--jobs", jobs, guest("chatters"))
    process = harness_process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "chatters (pv)\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_is_done(harness_process, guest, jobs):
    arguments = ("run", "--jobs", jobs, guest("good"), guest("hangs"), guest("good"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = harness_process(*arguments, **pipes, start_new_session=True)
    assert process.stdout.readline().startswith("guest")
    assert process.stdout.readline().startswith("good")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "harness: interrupted; 1 of 3 done\n")


def test_ctrl_c_on_a_single_guest_in_this_process(harness_process, guest, tmp_path):
    process = harness_process("run", "--jobs", "1", "--json", "j", guest("hangs"), stderr=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "j").exists() and (tmp_path / "j").read_text().count("\n") == 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "harness: interrupted; 0 of 1 done\n")


def on_a_terminal(harness_process, *arguments, **more):
    """What a terminal sees of standard output and standard error together."""
    ours, theirs = pty.openpty()
    process = harness_process(*arguments, stdout=theirs, stderr=theirs, **more)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:
            break
    process.wait()
    os.close(ours)
    return seen.decode()


def test_a_terminal_gets_colour_and_a_bar(harness_process, guest):
    seen = on_a_terminal(harness_process, "run", guest("good"), guest("fails"), env={"TERM": "xterm"})
    assert "\x1b[32mgood" in seen
    assert "\x1b[31mfails" in seen
    assert "0/2" in seen


def test_no_color_is_respected(harness_process, guest):
    seen = on_a_terminal(harness_process, "run", guest("good"), env={"TERM": "xterm", "NO_COLOR": "1"})
    assert "\x1b" not in seen


def test_a_pipe_gets_neither(harness_process, guest):
    process = harness_process("run", guest("good"), guest("fails"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert "\x1b" not in process.communicate()[0]


def test_a_narrow_encoding_stops_nothing(harness_process, tmp_path):
    guest = invented.flat_guest(tmp_path, "größe")
    arguments = ("run", "--trace", str(guest))
    process = harness_process(*arguments, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert "gr\\xf6\\xdfe (pv)\n" in process.communicate()[0]
    assert process.returncode == 0


# The other commands


def test_help_imports_no_engine():
    script = "import sys; from harness.cli import main; main(['--help']); print(*sys.modules, sep='\\n')"
    modules = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).splitlines()
    assert not {"unicorn", "capstone", "keystone", "rich", "harness.batch", "harness.guest"}.intersection(modules)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["list", "--help"], ["asm", "--help"]])
def test_help_is_on_standard_output(capfd, arguments):
    assert main(arguments) == 0
    assert capfd.readouterr().out.startswith("Usage: harness")


def test_the_shipped_guests_are_listed_in_teaching_order(capfd):
    from harness.guest import shelf

    assert main(["list"]) == 0
    names = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert names == [shelf.name_of(path) for path in shelf.shipped_guests()]


def test_a_flat_binary_is_written(capfd, tmp_path):
    source = tmp_path / "x.asm"
    source.write_text("start:\n    clts\n    hlt\n")
    assert main(["asm", str(source), "-o", str(tmp_path / "x.bin")]) == 0
    assert (tmp_path / "x.bin").read_bytes() == b"\x0f\x06\xf4"
    assert capfd.readouterr().out == ""


def test_a_listing_shows_address_bytes_and_source(capfd, tmp_path):
    source = tmp_path / "x.asm"
    source.write_text("start:\n    clts\n    hlt\n")
    assert main(["asm", "-l", str(source)]) == 0
    out = capfd.readouterr().out
    assert "00100000" in out
    assert "0f06" in out.replace(" ", "")
    assert "clts" in out
