"""What a terminal, a file or a program downstream is told while guests run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO

import click

from harness.domain.image import Image
from harness.domain.record import ExitRecord, RunResult, Verdict
from harness.job import BatchItem, Job, Listener
from harness.report import crash, jsonl, summary, trace
from harness.report.layout import side_by_side


class Screen:
    """What is told of some work: exits and results to `json` and to `trace` where asked for, and the rest to people.

    quiet: nothing is printed on standard output for people.
    """

    def __init__(
        self, work: Sequence[Job], *, json: IO[str] | None = None, trace: IO[str] | None = None, quiet: bool = False
    ) -> None:
        self._work = work
        self._json = json
        self._trace = trace
        self._quiet = quiet
        self._results: list[RunResult] = []
        self._surprises: list[BatchItem] = []
        self._traced: Job | None = None
        # A table has a row a guest; but rows between the lines of a trace would be no table.
        self._in_rows = len(work) > 1 and trace is not sys.stdout
        self._done = 0
        # Where lines stream by there is no place for a bar.
        streams = {json, trace} & {sys.stdout, sys.stderr}
        self._bar = _Bar(len(work)) if len(work) > 1 and sys.stderr.isatty() and not streams else None

    @property
    def listener(self) -> Listener | None:
        """What is to hear the exits; None when nobody asked for them, so that they cost nothing."""
        return self._exit if self._json or self._trace else None

    def __enter__(self) -> Screen:
        if self._in_rows and not self._quiet:
            click.echo(summary.rows([], self._names)[0])
        self._show_bar()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.hide()

    @property
    def _names(self) -> list[tuple[str, str]]:
        return [(job.name, job.mode) for job in self._work]

    def _show_bar(self) -> None:
        if self._bar and self._done < len(self._work):
            job = self._work[self._done]
            self._bar.show(self._done, f"{job.name} ({job.mode})")

    def _exit(self, job: Job, image: Image | None, record: ExitRecord) -> None:
        if self._json:
            _write(self._json, jsonl.exit_line(job.name, job.mode, record))
        if self._trace:
            self._trace_exit(self._trace, job, image, record)

    def _trace_exit(self, stream: IO[str], job: Job, image: Image | None, record: ExitRecord) -> None:
        named = image is not None and bool(image.symbols)
        if self._traced is not job:
            self._traced = job
            _write(stream, f"{job.name} ({job.mode})\n{trace.heading(symbols=named)}\n")
        _write(stream, trace.line(record, image.symbol_at(record.eip) if image and named else None) + "\n")

    def end(self, item: BatchItem) -> None:
        """Tell of a job that is done."""
        self._done += 1
        if self._bar:
            self._bar.hide()
        if item.result is None:
            click.echo(f"harness: {side_by_side(item.error)}", err=True)
        else:
            self._end(item, item.result)
        self._show_bar()

    def _end(self, item: BatchItem, result: RunResult) -> None:
        self._results.append(result)
        if not result.as_expected:
            self._surprises.append(item)
        if self._json:
            _write(self._json, jsonl.end_line(result))
        if self._quiet:
            return
        if self._in_rows:
            _print_verdict(summary.rows([result], self._names)[1], result)
        else:
            _page(item, result)

    def totals(self) -> None:
        """Say what came of all, when they were many; and in full of what was not as expected."""
        if self._quiet or len(self._work) == 1:
            return
        if self._in_rows:
            for item in self._surprises:
                click.echo()
                if item.result is not None:
                    _page(item, item.result)
        else:
            click.echo()
            click.echo("\n".join(summary.rows(self._results)))
        click.echo()
        click.echo(summary.totals(self._results))

    def interrupted(self) -> None:
        """Say how far it came."""
        click.echo(f"harness: interrupted; {self._done} of {len(self._work)} done", err=True)


def _page(item: BatchItem, result: RunResult) -> None:
    for line in summary.console(result):
        click.echo(line)
    _print_verdict(summary.verdict_line(result), result)
    for line in summary.details(result):
        click.echo(line)
    if result.crash:
        click.echo()
        click.echo(crash.report(result, item.image))


def _print_verdict(line: str, result: RunResult) -> None:
    colour = "yellow" if result.verdict is Verdict.SKIP else "green" if result.as_expected else "red"
    click.secho(line, fg=colour)


def _write(stream: IO[str], text: str) -> None:
    # What is told is on its way before the guest goes on: neither Ctrl-C nor kill -9 can take it back.
    stream.write(text)
    stream.flush()


class _Bar:
    """A progress bar on standard error, without a thread of its own: threads and fork do not go together."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total)

    def show(self, done: int, what: str) -> None:
        """Draw the bar at its place, below what has been printed."""
        self._progress.start()
        self._progress.update(self._task, completed=done, description=what)
        self._progress.refresh()

    def hide(self) -> None:
        """Take the bar away, to print something."""
        self._progress.stop()
