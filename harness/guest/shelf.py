"""Where the guests that come with the laboratory stand, and what they share.

`guests/NNN-name.asm`: the number is the place in the teaching order, the name is what one types.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from harness.guest.model import GuestError

_PACKAGE = Path(__file__).parents[1]
_NUMBERED = re.compile(r"\d{3}-(?=.)")


def _shipped(folder: str) -> Path:
    """Inside an installed wheel, else beside the package in a checkout."""
    installed = _PACKAGE / "_shipped" / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def guests_path() -> Path:
    """The folder of the shipped guests."""
    return _shipped("guests")


def asm_path() -> Path:
    """The folder of the files that guests include."""
    return _shipped("asm")


def shipped_guests() -> list[Path]:
    """The shipped guests in teaching order."""
    return sorted(guests_path().glob("*.asm"))


def name_of(path: Path) -> str:
    """What a guest is called: its file's name without suffix and teaching number."""
    return _NUMBERED.sub("", path.stem, count=1)


def find(name: str) -> Path:
    """The guest's file, by a shipped guest's name (with or without number and suffix) or by path.

    A bare name means the shipped guest first. GuestError: there is none, with the names that come close.
    """
    shipped = {spelling: path for path in shipped_guests() for spelling in _spellings(path)}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.exists():
        return path
    if os.sep in name or path.suffix:
        raise GuestError(f"{name}: no such file{_suggestion(path.stem)}")
    raise GuestError(f"no guest is called '{name}'{_suggestion(name) or ' (harness list shows them all)'}")


def _spellings(path: Path) -> tuple[str, str, str]:
    return name_of(path), path.stem, path.name


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [name_of(path) for path in shipped_guests()])
    return f" (did you mean {', '.join(close)}?)" if close else ""
