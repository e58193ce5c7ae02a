"""aarch64 under emulation: Debian's Python for arm64 and real wheels, run by QEMU. No root rights are needed.

    python -m aarch64.emulation

makes build/aarch64 where needed. QEMU's user emulation runs a program of another architecture as a process of this
kernel and looks every path up below a prefix first, so there is no chroot and nothing is mounted:

    root/           Debian's C library and Python, unpacked from their packages; proc/cpuinfo says which core this is
    wheels-NAME/    what pip downloaded for aarch64, the newest tested versions or the oldest allowed ones
    site-NAME/      the same, unpacked, with our own wheels: what a device has installed
    bin/            one interpreter a machine: it runs QEMU, so processes that it starts are emulated as well
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lower_bounds.bounds import declared_bounds, requirements
from wheels import DEVICE_SIDE, REPOSITORY, PipError, build_wheels, pip

FOLDER = REPOSITORY / "build" / "aarch64"
ROOT = FOLDER / "root"
OWN = FOLDER / "wheels-own"
SUITE = "bookworm"
PYTHON = "3.11"  # of this suite
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
UNPACKED = ("lib", "media-types", "python3", "zlib1g")  # how the names of the packages begin; programs are not needed
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PROGRAMS = {
    ("qemu-aarch64-static", "qemu-aarch64"): "qemu-user-static",
    ("debootstrap",): "debootstrap",
    ("dpkg-deb",): "dpkg",
}
"""What has to be here, any one program of each line, and Debian's package that brings it."""

PARTS = {"cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
"""Arm's part numbers, as in /proc/cpuinfo: the cores of Raspberry Pi 4 and 5."""

CPUINFO = """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
FEATURES = {
    "cortex-a72": "fp asimd evtstrm crc32 cpuid",
    "cortex-a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
}
CORES = 2


class NoEmulationError(Exception):
    """aarch64 cannot be emulated here; the message says what to do."""


@dataclass(frozen=True)
class Machine:
    """A core, and the versions that are installed on it: "pinned" or "oldest"."""

    core: str
    versions: str

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.core}-{self.versions}"

    @property
    def site(self) -> Path:
        """The folder with what is installed."""
        return FOLDER / f"site-{self.versions}"

    @property
    def python(self) -> Path:
        """The interpreter."""
        return FOLDER / "bin" / f"python-{self.name}"

    def run(self, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in a folder, with nothing of this process's environment."""
        environment = {"HOME": str(folder), "PATH": os.defpath, "LANG": "C.UTF-8", "COLUMNS": "100"}
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


MACHINES = (Machine("cortex-a72", "pinned"), Machine("cortex-a72", "oldest"), Machine("cortex-a76", "pinned"))
"""All answer; only those of the first core are asked for everything, since the core decides which kernels run."""


def make_machines() -> Sequence[Machine]:
    """All machines, with the device side as it is in the tree. What is there already is kept.

    Raises:
        NoEmulationError: A program is missing, or packages cannot be fetched.
    """
    qemu, debootstrap, _ = programs()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        unless_made(ROOT, f"{SUITE} {UNPACKED}", lambda folder: _make_root(folder, debootstrap))
        own = build_wheels(OWN)
        for versions, constraints in _constraints().items():
            _make_site(versions, constraints, own)
    except (OSError, PipError, subprocess.CalledProcessError) as error:
        raise NoEmulationError(f"the aarch64 packages cannot be had: {error}") from error
    for machine in MACHINES:
        _make_interpreter(machine, qemu)
    return MACHINES


def programs(path: str = SEARCHED) -> list[str]:
    """Where QEMU, debootstrap and dpkg-deb are.

    Args:
        path: The folders to look in, as in the variable PATH.

    Raises:
        NoEmulationError: One is missing; the message names Debian's packages.
    """
    found = [next(filter(None, (shutil.which(name, path=path) for name in names)), None) for names in PROGRAMS]
    absent = [package for package, program in zip(PROGRAMS.values(), found, strict=True) if program is None]
    if absent:
        raise NoEmulationError(f"aarch64 cannot be emulated here\n  try: apt install {' '.join(absent)}")
    return [program for program in found if program is not None]


def _constraints() -> Mapping[str, str]:
    """The text of a constraints file by the name of the versions."""
    return {
        "pinned": (REPOSITORY / "constraints.txt").read_text(),
        # of NumPy the oldest that ONNX Runtime 1.18's wheels for Python 3.11 take; on 3.10 they take 1.24.0
        "oldest": "\n".join("numpy==1.24.2" if pin == "numpy==1.24" else pin for pin in declared_bounds()) + "\n",
    }


def unless_made(folder: Path, wanted: str, make: Callable[[Path], None]) -> None:
    """Make a folder unless it was made of the same before; an interrupted attempt leaves none."""
    stamp = folder.with_name(folder.name + ".sha256")
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if folder.is_dir() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"making {folder}", file=sys.stderr)
    stamp.unlink(missing_ok=True)
    part = folder.with_name(folder.name + ".part")
    for old in (folder, part):
        shutil.rmtree(old, ignore_errors=True)
    make(part)
    part.rename(folder)
    stamp.write_text(digest)


def _make_root(folder: Path, debootstrap: str) -> None:
    """Fetch Debian's packages, their signatures checked, and unpack those that Python needs."""
    fetched = FOLDER / "debian"
    shutil.rmtree(fetched, ignore_errors=True)
    command = [debootstrap, "--download-only", "--arch=arm64", "--variant=minbase", "--include=python3"]
    done = subprocess.run(
        [*command, SUITE, str(fetched), MIRROR],
        env={**os.environ, "PATH": SEARCHED},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoEmulationError(
            "debootstrap failed\n  got: " + "\n       ".join((done.stdout + done.stderr).splitlines()[-3:])
        )
    folder.mkdir()
    for package in sorted((fetched / "var/cache/apt/archives").glob("*.deb")):
        if package.name.startswith(UNPACKED):
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    shutil.rmtree(fetched)


def _make_site(versions: str, constraints: str, own: Sequence[Path]) -> None:
    """Download wheels for aarch64, unpack them, and our own beside them, which may have changed."""
    wheels, site = FOLDER / f"wheels-{versions}", FOLDER / f"site-{versions}"
    file = FOLDER / f"constraints-{versions}.txt"
    file.write_text(constraints)
    wanted = sorted(set(requirements(DEVICE_SIDE)))
    target = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]

    def download(folder: Path) -> None:
        pip("download", "--quiet", "--dest", folder, "--constraint", file, *target, *wanted)

    def install(folder: Path) -> None:
        pip("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", folder, *target,
            *sorted(wheels.glob("*.whl")))  # fmt: skip

    made_of = "\n".join([constraints, PYTHON, *PLATFORMS, *wanted])
    unless_made(wheels, made_of, download)
    unless_made(site, made_of, install)
    for old in site.glob("edgeexit*"):
        shutil.rmtree(old)
    pip("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", site, *own)


def _make_interpreter(machine: Machine, qemu: str) -> None:
    """A program that starts Debian's Python on this core.

    QEMU looks paths up below its prefix before it looks for them here, /proc/cpuinfo too, so each core has a prefix
    of its own: links to the root's folders, and a `proc` that is no link.
    """
    prefix = FOLDER / f"prefix-{machine.core}"
    shutil.rmtree(prefix, ignore_errors=True)
    (prefix / "proc").mkdir(parents=True)
    for folder in ROOT.iterdir():
        if folder.name != "proc":
            (prefix / folder.name).symlink_to(folder)
    values = {"part": PARTS[machine.core], "features": FEATURES[machine.core]}
    processors = "".join(CPUINFO.format(index=index, **values) for index in range(CORES))
    (prefix / "proc" / "cpuinfo").write_text(f"{processors}Model\t\t: QEMU, user emulation of {machine.core}\n")
    command = [qemu, "-cpu", machine.core, "-L", str(prefix)]
    variables = f"PYTHONHOME={shlex.quote(str(ROOT / 'usr'))} PYTHONPATH={shlex.quote(str(machine.site))}"
    machine.python.parent.mkdir(exist_ok=True)
    machine.python.write_text(  # -0 names the program itself, so that sys.executable is this file
        f'#!/bin/sh\n{variables} PYTHONNOUSERSITE=1 exec {shlex.join(command)} -0 "$0" '
        f'{shlex.quote(str(ROOT / "usr/bin/python3"))} "$@"\n'
    )
    machine.python.chmod(0o755)


def size_mb(folder: Path) -> float:
    """What the files in a folder take, in 10⁶ bytes, compiled Python left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc" and not path.is_symlink()]
    return sum(path.stat().st_size for path in files) / 1e6


def main() -> int:
    """Make what is missing and say what there is; 1 where aarch64 cannot be emulated."""
    start_s = time.monotonic()
    try:
        machines = make_machines()
    except NoEmulationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"aarch64 is ready after {time.monotonic() - start_s:.0f} s: Debian's root {size_mb(ROOT):.0f} MB")
    for site in sorted({machine.site for machine in machines}):
        print(f"installed device side in {site.relative_to(REPOSITORY)}: {size_mb(site):.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
