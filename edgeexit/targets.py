"""Targets: what is known of a device, one TOML file each.

Every figure carries its unit and where it comes from, so that a reader can tell a vendor's fact from
a choice of ours. The files lie in `targets/` of the repository and in the wheel.
"""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgeexit.errors import DeviceError, MissingPartError, UsageError
from edgeexit.files import read_small

__all__ = [
    "Fact",
    "Jetson",
    "PowerMode",
    "Quantity",
    "Settings",
    "System",
    "Target",
    "VersionRange",
    "load_target",
    "target_names",
]

UNITS = {"cores": "cores", "clock": "GHz", "memory": "GiB", "threads": "threads", "power": "W"}
"""The one unit in which each quantity is written."""

MAX_BYTES = 64 * 1024

Text = Annotated[str, Meta(min_length=1)]
Version = Annotated[str, Meta(pattern=r"^\d+(\.\d+)*$")]
Count = Annotated[int, Meta(ge=1, le=4096)]
Amount = Annotated[float, Meta(gt=0, le=1e6)]  # with an end, since TOML can write infinity
Value = TypeVar("Value")


class _Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables: immutable, unknown keys refused."""


class Fact(_Frozen, Generic[Value], frozen=True):
    """A value without a unit, and where it comes from."""

    value: Value
    source: Text


class Quantity(_Frozen, Generic[Value], frozen=True):
    """A number, its unit and where it comes from."""

    value: Value
    unit: Text
    source: Text


class VersionRange(_Frozen, frozen=True):
    """Versions from `minimum` up to, and without, `below`."""

    minimum: Version
    below: Version
    source: Text


class PowerMode(_Frozen, frozen=True):
    """A power mode of `nvpmodel`: its name, the processor cores it leaves on, its power (None: no limit)."""

    name: Text
    cores: Quantity[Count]
    power: Quantity[Amount] | None = None


class Jetson(_Frozen, frozen=True):
    """What only a Jetson has."""

    gpu: Fact[Text]
    jetpack: VersionRange
    tensorrt: VersionRange
    power_modes: Annotated[tuple[PowerMode, ...], Meta(min_length=1)]


class Settings(_Frozen, frozen=True):
    """How the runtime uses the device: choices, each with its reason as the source."""

    threads: Quantity[Count]
    spinning: Fact[bool]
    arena: Fact[bool]
    memory_pattern: Fact[bool]
    precision: Fact[Literal["fp32", "fp16", "int8"]]


class System(_Frozen, frozen=True):
    """The systems that the device usually runs, and the Python that comes with them."""

    name: Fact[Text]
    python: Fact[Text]


class Target(_Frozen, frozen=True, kw_only=True):
    """A device.

    `board` is how the name begins that the device itself gives in `/proc/device-tree/model`.

    Raises:
        DeviceError: From `load_target`, if the file does not fit this structure.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Text
    board: Fact[Text] | None = None
    architecture: Literal["aarch64", "x86_64"]
    cpu: Fact[Text]
    cores: Quantity[Count]
    clock: Quantity[Amount] | None = None
    memory: Quantity[Amount]
    settings: Settings
    system: System | None = None
    jetson: Jetson | None = None

    @property
    def threads(self) -> int:
        """Threads that one operator of a segment may use."""
        return self.settings.threads.value

    @property
    def spinning(self) -> bool:
        """Whether idle threads wait in a busy loop."""
        return self.settings.spinning.value

    @property
    def arena(self) -> bool:
        """Whether memory is kept for the next run."""
        return self.settings.arena.value

    @property
    def memory_pattern(self) -> bool:
        """Whether memory is planned beforehand for every shape."""
        return self.settings.memory_pattern.value

    @property
    def precision(self) -> str:
        """The precision that the device runs best: fp32, fp16 or int8."""
        return self.settings.precision.value


def target_names() -> tuple[str, ...]:
    """The names of the targets that come with EdgeExit, sorted."""
    return tuple(sorted(_shipped()))


def load_target(target: str | Path) -> Target:
    """Load a target by its name, or from a TOML file.

    Args:
        target: A name out of `target_names()`, or the path of a file that ends in `.toml`.

    Raises:
        UsageError: The name is unknown, or the file cannot be read.
        DeviceError: The file is no target: a key, value or unit in it is wrong.
    """
    if isinstance(target, Path) or target.endswith(".toml"):
        path = Path(target)
        try:
            return _parse(read_small(path, "target", MAX_BYTES, error=DeviceError), str(path))
        except OSError as error:
            raise UsageError(f"cannot read the target file {path}", got=error.strerror) from error
        except ValueError as error:
            raise UsageError("the target's path cannot be a path", got=repr(str(path))) from error
    shipped = _shipped()
    if target not in shipped:
        close = difflib.get_close_matches(target, shipped, n=1)
        raise UsageError(
            "unknown target",
            got=target,
            expected=f"one of {', '.join(sorted(shipped))}, or the path of a .toml file",
            remedy=close[0] if close else "edgeexit targets",
        )
    return _parse(shipped[target], f"{target}.toml")


def _shipped() -> dict[str, bytes]:
    """Name → content of the files in the wheel, or in the repository for an editable install."""
    folder = files("edgeexit") / "_targets"
    if not folder.is_dir():
        folder = Path(__file__).resolve().parent.parent / "targets"
    found = [item for item in folder.iterdir() if item.name.endswith(".toml")]
    return {item.name.removesuffix(".toml"): item.read_bytes() for item in found}


def _parse(content: bytes, file: str) -> Target:
    try:
        document = msgspec.toml.decode(content)
    except ImportError as error:  # Python 3.10 without tomli
        raise MissingPartError.package("reading targets", "tomli") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DeviceError(f"{file} is not valid TOML", got=error) from error
    try:
        target = msgspec.convert(document, Target)
    except msgspec.ValidationError as error:
        raise DeviceError(f"{file}: {_key(str(error))} cannot be used", got=error) from error
    _check_units(document, file)
    return target


def _key(message: str) -> str:
    """The dotted key that a message of msgspec is about."""
    table = re.search(r"`\$\.?([^`]*)`$", message)
    field = re.search(r"field `([^`]*)`", message)
    return ".".join(part for part in (table and table[1], field and field[1]) if part) or "the document"


def _check_units(value: object, file: str, key: str = "") -> None:
    """Refuse a quantity whose unit is not the one that its key stands for."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_units(item, file, f"{key}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            where = f"{key}.{name}" if key else name
            unit = UNITS.get(name)
            if unit is not None and item["unit"] != unit:
                raise DeviceError(f"{file}: {where}.unit is not the unit of {name}", got=item["unit"], expected=unit)
            _check_units(item, file, where)
