"""The examination: which target the machine is held against, and every check in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeexit.targets import Target, load_target, target_names
from edgeexit_runtime.doctor.finding import Finding, Status, ok, warning
from edgeexit_runtime.doctor.heat import check_heat
from edgeexit_runtime.doctor.host import Host
from edgeexit_runtime.doctor.memory import check_memory
from edgeexit_runtime.doctor.nvidia import check_nvidia
from edgeexit_runtime.doctor.processor import SAME, check_processor, online_cores
from edgeexit_runtime.doctor.software import check_software
from edgeexit_runtime.energy import find_meter

__all__ = ["Report", "examine", "guess_target"]

MODEL = "proc/device-tree/model"
BATTERIES = "sys/class/power_supply/BAT*"
LAPTOP, SERVER = "x86-64-laptop", "x86-64-server"
GRAVITY: tuple[Status, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Report:
    """What the doctor says.

    Attributes:
        target: The name of the target that the machine was held against; None where none is known.
        guessed: Whether it was guessed.
        findings: One for each thing looked at.
    """

    target: str | None
    guessed: bool
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The gravest of the findings'."""
        return max((finding.status for finding in self.findings), key=GRAVITY.index, default="ok")


def examine(host: Host, *, target: str | Path | None = None, bundle: str | Path | None = None) -> Report:
    """Hold a machine against a target.

    Args:
        host: The machine.
        target: A known device or a target file; guessed when None.
        bundle: A bundle to look at too.

    Raises:
        UsageError: There is no such target.
        DeviceError: The target file is malformed.
    """
    guessed = guess_target(host) if target is None else None
    name = target if target is not None else guessed
    device = None if name is None else load_target(name)
    findings = list(_findings(host, device))
    if bundle is not None:
        from edgeexit_runtime.doctor.bundled import check_bundle

        findings += check_bundle(host, device, bundle)
    return Report(None if device is None else device.name, guessed is not None, tuple(findings))


def guess_target(host: Host) -> str | None:
    """The target that the machine seems to be: by the board's name, or the kind of PC."""
    model = host.text(MODEL) or ""
    for name in target_names():
        board = load_target(name).board
        if board is not None and model.startswith(board.value):
            return name
    if model or SAME.get(host.process.architecture, host.process.architecture) != "x86_64":
        return None
    small = bool(host.paths(BATTERIES)) or online_cores(host) < load_target(SERVER).cores.value
    return LAPTOP if small else SERVER


def _findings(host: Host, target: Target | None) -> Iterator[Finding]:
    yield from _board(host, target)
    yield from check_processor(host, target)
    yield from check_memory(host, target)
    yield from check_heat(host, target)
    yield from check_nvidia(host, target)
    yield from check_software(host)
    yield _energy(host)


def _board(host: Host, target: Target | None) -> Iterator[Finding]:
    model = host.text(MODEL) or None
    if target is None:
        yield warning(
            "target", model or "no board that is known", "a known device", "name one: --target, or a .toml file"
        )
    elif target.board is None:
        yield ok("target", target.title)
    elif model is not None and model.startswith(target.board.value):
        yield ok("board", model, target.board.value)
    else:
        remedy = "name this device's own target: --target"
        yield warning("board", model or "the device does not tell", target.board.value, remedy)


def _energy(host: Host) -> Finding:
    meter, note = find_meter(host.root)
    if meter is not None:
        return ok("energy", note)
    if "; try: " in note:
        found, _, remedy = note.partition("; try: ")
        return warning("energy", found, "a counter that may be read", remedy)
    return ok("energy", note)
