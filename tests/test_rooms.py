"""The rules of the house that a machine can hold: who imports whom, how files are called, what they may name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMELESS = ("utils", "helpers", "misc", "common", "manager", "base")
# Folders of one machine: where somebody's clone or home lies says nothing to anybody else.
MACHINE_PATH = re.compile(r"(?<![\w.$:~-])/(?:work|home|root|Users)/")
SKIPPED = {".git", ".venv", "build", "dist", "__pycache__"}


def kept_files() -> list[Path]:
    """The files of the repository, as far as git would take them; all there are where git is not at hand."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if path.is_file() and not SKIPPED.intersection(path.parts)]
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def test_imports_go_downward_only():
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    run = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_file_has_a_name_that_says_nothing():
    assert [path for path in kept_files() if path.stem.lower() in NAMELESS] == []


def test_nothing_names_a_path_of_the_machine_it_was_written_on():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in kept_files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_every_room_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in kept_files()
        if path.is_relative_to(ROOT / "harness")
        and path.suffix == ".py"
        and not path.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []
