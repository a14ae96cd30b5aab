"""Finding guests: the shipped ones by name, any by path, and a useful word when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest import shelf
from harness.guest.model import GuestError

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with three guests in it, and a working folder that holds nothing."""
    folder = tmp_path / "harness" / "_shipped" / "guests"
    folder.mkdir(parents=True)
    for name in ("020-clts.asm", "010-hello.asm", "100-64-bit.asm", "README.md"):
        (folder / name).write_text("")
    monkeypatch.setattr(shelf, "_PACKAGE", tmp_path / "harness")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_in_a_checkout_the_folders_stand_beside_the_package() -> None:
    assert shelf.asm_path() == CHECKOUT / "asm"
    assert shelf.guests_path() == CHECKOUT / "guests"
    assert (shelf.asm_path() / "xen.inc").is_file()


def test_in_a_wheel_they_are_inside_it(shipped: Path) -> None:
    (shipped.parent / "asm").mkdir()
    assert shelf.guests_path() == shipped
    assert shelf.asm_path() == shipped.parent / "asm"


def test_teaching_order(shipped: Path) -> None:
    assert [path.name for path in shelf.shipped_guests()] == ["010-hello.asm", "020-clts.asm", "100-64-bit.asm"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("010-hello.asm", "hello"), ("100-64-bit.asm", "64-bit"), ("64-bit.asm", "64-bit"), ("123-.asm", "123-"),
     ("kernel.elf", "kernel")],
)  # fmt: skip
def test_names(file: str, name: str) -> None:
    assert shelf.name_of(Path("x") / file) == name


@pytest.mark.parametrize("name", ["hello", "010-hello", "010-hello.asm"])
def test_by_name(shipped: Path, name: str) -> None:
    assert shelf.find(name) == shipped / "010-hello.asm"


def test_by_path(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.asm").write_text("")
    assert shelf.find(str(tmp_path / "mine.asm")) == tmp_path / "mine.asm"
    assert shelf.find("../mine.asm") == Path("../mine.asm")


def test_a_bare_name_means_the_shipped_guest_first(shipped: Path) -> None:
    Path("hello").write_text("")
    Path("other").write_text("")
    assert shelf.find("hello") == shipped / "010-hello.asm"
    assert shelf.find("./hello") == Path("hello")
    assert shelf.find("other") == Path("other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helo", "no guest is called 'helo' (did you mean hello?)"),
        ("xyzzy", "no guest is called 'xyzzy' (harness list shows them all)"),
        ("sub/helo.asm", "sub/helo.asm: no such file (did you mean hello?)"),
        ("xyzzy.asm", "xyzzy.asm: no such file"),
    ],
)
def test_unknown(shipped: Path, name: str, message: str) -> None:
    with pytest.raises(GuestError) as caught:
        shelf.find(name)
    assert str(caught.value) == message
