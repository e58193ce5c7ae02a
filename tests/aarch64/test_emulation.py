"""What is made for the emulation, and what is said where there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from aarch64.emulation import FEATURES, MACHINES, PARTS, PROGRAMS, NoEmulationError, programs, unless_made


def install(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).touch(0o755)
    return str(folder)


def test_where_emulation_is_missing_the_message_names_every_package_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoEmulationError, match=r"apt install qemu-user-static debootstrap dpkg$"):
        programs(str(tmp_path))


def test_only_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoEmulationError, match=r"apt install debootstrap$"):
        programs(install(tmp_path, "qemu-aarch64-static", "dpkg-deb"))


@pytest.mark.parametrize("qemu", [name for names in PROGRAMS for name in names if name.startswith("qemu")])
def test_either_build_of_qemu_will_do(tmp_path: Path, qemu: str) -> None:
    assert programs(install(tmp_path, qemu, "debootstrap", "dpkg-deb"))[0] == str(tmp_path / qemu)


def test_a_folder_is_made_once_and_again_when_what_is_wanted_changes(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)

    for wanted in ("a", "a", "b", "b"):
        unless_made(tmp_path / "folder", wanted, make)
    assert len(made) == 2
    assert (tmp_path / "folder").is_dir()


def test_an_attempt_that_failed_counts_for_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        unless_made(tmp_path / "folder", "a", fail)
    assert not (tmp_path / "folder").exists()
    unless_made(tmp_path / "folder", "a", Path.mkdir)
    assert (tmp_path / "folder").is_dir()


def test_every_machine_has_a_core_that_proc_cpuinfo_can_name() -> None:
    assert {machine.core for machine in MACHINES} <= PARTS.keys() & FEATURES.keys()
    assert len({machine.name for machine in MACHINES}) == len(MACHINES)
