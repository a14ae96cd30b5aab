"""The command line: `harness run | list | asm | explain | doctor | bench`.

What a command needs is imported inside it, so that help and a typing error cost nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from harness.guest.head import Head
    from harness.guest.model import Guest
    from harness.job import BatchItem, Job
    from harness.screen import Screen

USAGE = 2
NOT_AS_EXPECTED = 1
ERROR_OR_CRASH = 3
TIMEOUT = 4
INTERRUPTED = 130
BROKEN_PIPE = 141

# When several runs end differently the first of these that occurred is the status of the whole.
PRECEDENCE = (USAGE, ERROR_OR_CRASH, TIMEOUT, NOT_AS_EXPECTED)

MODES = ("pv", "bare", "vmx")
POLICIES = ("xen", "full")
STANDARD_OUTPUT = "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` unless given) and return its exit status; what the user did wrong is one line.

    An exception of the harness's own escapes.
    """
    # Starting allocates much and frees nothing: the collector would only make it last longer, by a tenth.
    gc.set_threshold(50_000)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = commands.main(arguments, prog_name="harness", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        click.echo("harness: " + " ".join(error.format_message().split()), err=True)
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # Whoever read has seen enough; click turns that into SystemExit, and nothing else here does. Python would
        # complain once more on flushing at its end, into nothing then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status if isinstance(status, int) else 0


@contextmanager
def _users_fault() -> Iterator[None]:
    """What a guest's author or the user of a command did wrong becomes one line and status 2."""
    from harness.job import user_errors
    from harness.report.layout import side_by_side

    try:
        yield
    except user_errors() as error:
        raise click.UsageError(side_by_side(str(error))) from error


class _Size(click.ParamType[int]):
    """Bytes, from a number with or without K, M or G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from harness.guest.head import parse_memory

        try:
            return parse_memory(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _RunCommand(click.Command):
    """`--trace` may stand alone; it never takes the guest that follows it for a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        plain = ["--trace=-" if arg == "--trace" else arg for arg in args[:end]]
        return super().parse_args(ctx, plain + args[end:])


@click.group(invoke_without_command=True)
@click.version_option(package_name="harness-x86", prog_name="harness")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """A laboratory for x86 virtualization: real guest kernels, an emulated CPU, a hypervisor to look into."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@commands.command(cls=_RunCommand, short_help="Run guests and say what they did.")
@click.argument("guests", nargs=-1, metavar="[GUEST]...")
@click.option("--all", "everything", is_flag=True, help="Every shipped guest, in teaching order.")
@click.option("--mode", type=click.Choice(MODES), help="Only in this mode; else in every mode that its head names.")
@click.option("--policy", type=click.Choice(POLICIES), help="Xen 3.0's handling, or each instruction's correct result.")
@click.option("--audit", is_flag=True, help="Report sensitive instructions that did not trap.")
@click.option("--trace", metavar="[=FILE]", help="A line an exit, to standard output or to a file.")
@click.option("--json", "json_file", metavar="FILE", help="JSON lines; with - nothing else is on standard output.")
@click.option("--max-exits", type=click.IntRange(min=1), metavar="N", help="End with a timeout after N exits.")
@click.option("--max-insns", type=click.IntRange(min=1), metavar="N", help="The same after N instructions.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", default=60.0, show_default=True,
              help="Seconds of wall-clock for each guest; 0 for no limit.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), metavar="N",
              help="Processes at once; one for each CPU unless given.")
@click.option("--memory", type=_Size(), metavar="SIZE", help="RAM, such as 16M.")
@click.option("--flat", is_flag=True, help="The files are flat binaries, loaded and entered at 1 MiB.")
@click.option("--cmdline", metavar="TEXT", help="The command line that the guest finds.")
@click.option("--module", "modules", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file to load beside the guest.")  # fmt: skip
def run(
    guests: tuple[str, ...],
    everything: bool,
    mode: str | None,
    audit: bool,
    trace: str | None,
    json_file: str | None,
    timeout: float,
    jobs: int | None,
    flat: bool,
    modules: tuple[Path, ...],
    **options: Any,
) -> int:
    """Run guests, by name (see `harness list`) or by file, and say what they did.

    \b
    Exit status, the first that applies:
      2  a mistake in the command or in a guest's file
      3  an error or a crash that was not expected
      4  a timeout that was not expected
      1  a failure, or anything else that is not as expected
      0  all as expected: an expected crash is, and so is a skip
    130 after Ctrl-C. A traceback is a mistake of the harness's own; its status is 1 too.
    """
    from harness.guard import guarded
    from harness.job import Job
    from harness.screen import Screen

    if everything and guests:
        raise click.UsageError("--all or GUEST, not both")
    if not everything and not guests:
        raise click.UsageError("name guests (see harness list) or files to run, or say --all")
    options |= {"audit": audit or None, "modules": modules or None, "timeout": timeout or None}
    with _users_fault():
        chosen = _chosen(guests, flat)
    work = [
        Job(path, name, each, flat, **options)
        for path, name, modes in chosen
        for each in ([mode] if mode else modes)
    ]
    only_json = json_file == STANDARD_OUTPUT
    with ExitStack() as files:
        json = _opened(files, json_file, sys.stdout)
        traced = _opened(files, trace, sys.stderr if only_json else sys.stdout)
        screen = Screen(work, json=json, trace=traced, quiet=only_json)
        if len(work) == 1 and jobs is None:
            status = guarded(lambda: _run(work, screen, 1))
            if status is not None:
                return status
            # The engine took the child with it. Once more, with a child that tells what was known.
            _rewind(json, traced)
        return _run(work, screen, jobs or len(os.sched_getaffinity(0)))


def _rewind(*files: IO[str] | None) -> None:
    for file in files:
        if file is not None and file not in (sys.stdout, sys.stderr):
            file.seek(0, os.SEEK_END)
            file.truncate(0)
            file.seek(0)


def _chosen(guests: Sequence[str], flat: bool) -> list[tuple[Path, str, tuple[str, ...]]]:
    """File, name and modes of each guest asked for; of all that are shipped when none is. Nothing is assembled."""
    from harness.guest import shelf

    paths = [shelf.find(guest) for guest in guests] or shelf.shipped_guests()
    return [(path, shelf.name_of(path), _head(path, flat).modes) for path in paths]


def _head(path: Path, flat: bool = False) -> Head | Guest:
    """What says title and modes: a source's head, or the whole of a guest that needs no assembling."""
    from harness.guest.head import Head, parse_head
    from harness.guest.loader import SOURCE_SUFFIXES, load

    if path.suffix in SOURCE_SUFFIXES and not flat:
        # A file that cannot be read is the loader's to complain about.
        with suppress(OSError, UnicodeDecodeError):
            return parse_head(path.read_text(encoding="utf-8"), path) or Head()
    return load(path, flat=flat)


def _run(work: Sequence[Job], screen: Screen, jobs: int) -> int:
    from harness.batch import run_batch

    statuses = set()
    items = run_batch(work, jobs_at_once=jobs, on_exit=screen.listener)
    try:
        with closing(items), screen:
            for item in items:
                screen.end(item)
                statuses.add(status_of(item))
    except KeyboardInterrupt:
        screen.interrupted()
        return INTERRUPTED
    screen.totals()
    return next((status for status in PRECEDENCE if status in statuses), 0)


def status_of(item: BatchItem) -> int:
    """The exit status that one run alone would give."""
    from harness.domain.record import Verdict

    if item.result is None:
        return USAGE
    if item.result.as_expected or item.result.verdict is Verdict.SKIP:
        return 0
    match item.result.verdict:
        case Verdict.ERROR | Verdict.CRASH:
            return ERROR_OR_CRASH
        case Verdict.TIMEOUT:
            return TIMEOUT
        case _:
            return NOT_AS_EXPECTED


def _opened(files: ExitStack, name: str | None, standard: IO[str]) -> IO[str] | None:
    if name is None:
        return None
    if name == STANDARD_OUTPUT:
        return standard
    try:
        return files.enter_context(open(name, "w", encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        raise click.UsageError(f"{name}: {error.strerror}") from error


@commands.command("list", short_help="The shipped guests, in teaching order.")
def list_guests() -> None:
    """The shipped guests in teaching order: name, modes, title."""
    from harness.guest import shelf
    from harness.report.layout import table

    with _users_fault():
        heads = [(shelf.name_of(path), _head(path)) for path in shelf.shipped_guests()]
    for line in table([(name, ",".join(head.modes), head.title) for name, head in heads]) if heads else ():
        click.echo(line)


@commands.command(short_help="Assemble a file: a listing, a flat binary.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-l", "--listing", is_flag=True, help="Print address, bytes, decoded instruction and source.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a flat binary.")
def asm(file: Path, listing: bool, output: Path | None) -> None:
    """Assemble FILE as it would be loaded, at 1 MiB; errors only, unless told to print or write something."""
    from harness.code.assembler import assemble_file
    from harness.guest.loader import LOAD_ADDRESS
    from harness.guest.shelf import asm_path

    with _users_fault():
        assembled = assemble_file(file, base=LOAD_ADDRESS, include_path=(asm_path(),))
    if listing:
        from harness.code.listing import listing as rows_of
        from harness.code.listing import render

        for line in render(rows_of(assembled)):
            click.echo(line)
    if output:
        try:
            output.write_bytes(assembled.code)
        except OSError as error:
            raise click.UsageError(f"{output}: {error.strerror}") from error


@commands.command(short_help="What an instruction does in each ring.")
@click.argument("instruction", nargs=-1, required=True)
def explain(instruction: tuple[str, ...]) -> None:
    """What INSTRUCTION, a mnemonic or its bytes in hex, does in each ring, under Xen 3.0 and under VT-x."""
    from harness.explain import explain as explained
    from harness.report.layout import side_by_side

    try:
        click.echo(explained(" ".join(instruction)))
    except ValueError as error:
        raise click.UsageError(side_by_side(str(error))) from error


@commands.command(short_help="Check the engines of this machine.")
def doctor() -> int:
    """Check that this machine's engines have each property that the harness relies on. Status 3 when one has not."""
    from harness.machine.doctor import checks

    sound = True
    for check in checks():
        click.echo(check)
        sound = sound and check.holds
    return 0 if sound else ERROR_OR_CRASH


@commands.command(short_help="Measure what a trap costs.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def bench(as_json: bool) -> None:
    """Measure what a trap costs, against bare loops in the same process."""
    from harness.bench import main as measure

    measure(json=as_json)
