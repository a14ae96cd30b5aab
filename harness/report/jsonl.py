"""The trace for programs: JSON lines, one object an exit and one at the end of each guest.

The schema is described in docs/trace.md. Numbers are numbers (addresses too), instruction bytes are lower-case hex,
keys come in the order given here. `read` takes back what `exit_line` and `end_line` gave.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.domain.record import AuditFinding, ExitRecord, RunResult, Verdict


@dataclass(frozen=True, slots=True)
class ExitOf:
    """An exit read back, with the guest and the mode that it belongs to."""

    guest: str
    mode: str
    record: ExitRecord


def exit_line(guest: str, mode: str, record: ExitRecord) -> str:
    """One exit of a guest as a line of JSON, newline included."""
    return _line(
        {
            "type": "exit",
            "guest": guest,
            "mode": mode,
            "n": record.n,
            "kind": record.kind,
            "eip": record.eip,
            "cpl": record.cpl,
            "bytes": record.bytes.hex(),
            "text": record.text,
            "raised": record.raised,
            "action": record.action,
            "result": record.result,
            "notes": list(record.notes),
            "time_ns": record.time_ns,
        }
    )


def end_line(result: RunResult) -> str:
    """The end of a guest as a line of JSON, newline included."""
    return _line(
        {
            "type": "end",
            "guest": result.guest,
            "mode": result.mode,
            "verdict": result.verdict.value,
            "reason": result.reason,
            "as_expected": result.as_expected,
            "console": result.console,
            "exits": dict(sorted(result.exits.items())),
            "hypercalls": dict(sorted(result.hypercalls.items())),
            "registers": result.registers,
            "audit": [_finding(finding) for finding in result.audit],
            "differences": list(result.differences),
            "time_ns": result.time_ns,
        }
    )


def read(lines: Iterable[str]) -> Iterator[ExitOf | RunResult]:
    """What the lines tell, in their order. A crash report is not in the schema, so `crash` comes back as None.

    Raises ValueError for a line that is not of the schema, with its number counted from 1.
    """
    for number, line in enumerate(lines, 1):
        try:
            yield _read(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is not of the trace schema: {error!r}") from error


def _line(fields: dict[str, Any]) -> str:
    # Escaped to ASCII, so that no console of a guest's can do anything to the terminal it is looked at on.
    return json.dumps(fields) + "\n"


def _finding(finding: AuditFinding) -> dict[str, Any]:
    return {
        "eip": finding.eip,
        "cpl": finding.cpl,
        "bytes": finding.bytes.hex(),
        "text": finding.text,
        "saw": finding.saw,
        "instead": finding.instead,
    }


def _read(fields: dict[str, Any]) -> ExitOf | RunResult:
    match fields["type"]:
        case "exit":
            return ExitOf(fields["guest"], fields["mode"], _exit(fields))
        case "end":
            return _end(fields)
        case other:
            raise ValueError(f"type {other!r}")


def _exit(fields: dict[str, Any]) -> ExitRecord:
    return ExitRecord(
        n=fields["n"],
        kind=fields["kind"],
        eip=fields["eip"],
        cpl=fields["cpl"],
        bytes=bytes.fromhex(fields["bytes"]),
        text=fields["text"],
        raised=fields["raised"],
        action=fields["action"],
        result=fields["result"],
        notes=tuple(fields["notes"]),
        time_ns=fields["time_ns"],
    )


def _end(fields: dict[str, Any]) -> RunResult:
    return RunResult(
        guest=fields["guest"],
        mode=fields["mode"],
        verdict=Verdict(fields["verdict"]),
        reason=fields["reason"],
        console=fields["console"],
        exits=fields["exits"],
        hypercalls=fields["hypercalls"],
        registers=fields["registers"],
        audit=tuple(
            AuditFinding(
                eip=finding["eip"],
                cpl=finding["cpl"],
                bytes=bytes.fromhex(finding["bytes"]),
                text=finding["text"],
                saw=finding["saw"],
                instead=finding["instead"],
            )
            for finding in fields["audit"]
        ),
        differences=tuple(fields["differences"]),
        time_ns=fields["time_ns"],
    )
