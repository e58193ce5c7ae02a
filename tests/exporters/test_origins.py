"""Which files an import would run, found out without running them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeexit_exporters.origins import files_inside, search_here

BOMB = "raise SystemExit('this code was run')\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with code in it that must not be run."""
    for path in ("shady_run/payload.py", "shady_run/package/__init__.py", "shady_run/package/part.py", "shady_top.py",
                 "shady_outer/__init__.py", "shady_outer/run/payload.py"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(BOMB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    search_here()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("shady_run.payload", "shady_run", ["payload.py"]),
        ("shady_run.package", "shady_run", ["__init__.py"]),
        ("shady_run.package.part", "shady_run", ["__init__.py", "part.py"]),
        ("shady_outer.run.payload", "shady_outer/run", ["payload.py"]),
        ("shady_outer.run.payload", "shady_outer", ["__init__.py", "payload.py"]),
        ("shady_top", ".", ["shady_top.py"]),
        ("shady_top", "shady_run", []),
        ("shady_run", "shady_run", []),
        ("shady_run.nothing", "shady_run", []),
        ("shady_nothing.payload", "shady_run", []),
        ("json.decoder", "shady_run", []),
        ("sys", "shady_run", []),
        ("", "shady_run", []),
        (".payload", "shady_run", []),
        ("__main__", "shady_run", []),
    ],
)
def test_files_of_a_module_and_of_its_packages_are_found_where_they_lie(
    here: Path, name: str, folder: str, files: list[str]
) -> None:
    before = set(sys.modules)
    assert [Path(file).name for file in files_inside(name, Path(folder))] == files
    assert not {module for module in set(sys.modules) - before if module.startswith("shady")}


def test_a_folder_in_which_one_stands_is_searched_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "shady_run")
    search_here()
    assert len(files_inside("payload", Path())) == 1


def test_but_not_where_it_lies_in_a_folder_that_is_left_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "shady_run" / "deeper").mkdir()
    monkeypatch.chdir(here / "shady_run" / "deeper")
    search_here(outside=here / "shady_run")
    assert str(here / "shady_run" / "deeper") not in sys.path
    search_here(outside=here / "shady_outer")
    assert str(here / "shady_run" / "deeper") in sys.path


def test_links_into_the_folder_and_out_of_it_count(here: Path) -> None:
    (here / "shady_link.py").symlink_to(here / "shady_run" / "payload.py")
    (here / "shady_run" / "leaving.py").symlink_to(here / "shady_top.py")
    (here / "shady_way").symlink_to(here / "shady_run")
    assert files_inside("shady_link", Path("shady_run"))
    assert files_inside("shady_run.leaving", Path("shady_run"))
    assert files_inside("shady_run.payload", Path("shady_way"))
