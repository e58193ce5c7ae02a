"""Rivals: what a user could run instead of the cascade, brought by other packages.

A package offers one through the entry-point group `edgeexit.rivals`: a function `(bundle, threads) -> Rival`
that raises an error of `edgeexit.errors` where it cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError, UsageError

__all__ = ["KNOWN_RIVALS", "SLOW", "Rival", "Rivals", "choose_rivals", "installed_rivals", "open_rivals"]

GROUP = "edgeexit.rivals"
SLOW = ("compiled",)
"""Only made when asked for: minutes of compiling."""

KNOWN_RIVALS = ("eager", "compiled", "if", "if-local")
"""Brought by the package edgeexit-exporters."""


class Rival(Protocol):
    """The same multi-exit model, run in another way.

    Attributes:
        name: As on the command line.
        largest_batch: The most samples it takes at once; any number if None.
    """

    name: str
    largest_batch: int | None

    def __call__(self, batch: Mapping[str, NDArray[Any]], exits: NDArray[np.int64]) -> object:
        """Answer n samples, each leaving at its exit of `exits` (n,)."""


@dataclass(frozen=True)
class Rivals:
    """Those that could be had, and for each of the others the reason why not."""

    ready: Mapping[str, Rival] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def installed_rivals() -> dict[str, EntryPoint]:
    """What the packages of this environment offer, by name."""
    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def choose_rivals(words: str, installed: Mapping[str, object]) -> tuple[str, ...]:
    """The names that `all`, `none`, `quick` or a list separated by commas stands for.

    Raises:
        UsageError: A name is neither known nor installed.
    """
    names = tuple(dict.fromkeys((*KNOWN_RIVALS, *installed)))
    wanted = {"all": names, "none": (), "quick": tuple(name for name in names if name not in SLOW)}.get(words)
    if wanted is None:
        wanted = tuple(word.strip() for word in words.split(","))
    strange = next((name for name in wanted if name not in names), None)
    if strange is not None:
        raise UsageError("there is no such rival", got=strange, expected=f"all, quick, none, or of {', '.join(names)}")
    return wanted


def open_rivals(
    names: Sequence[str], bundle: Bundle, threads: int, installed: Mapping[str, EntryPoint] | None = None
) -> Rivals:
    """Make the rivals of these names.

    Args:
        names: See `choose_rivals`.
        bundle: The bundle.
        threads: CPU threads that one operator may use.
        installed: What is offered; `installed_rivals()` when None.
    """
    offered = installed_rivals() if installed is None else installed
    ready: dict[str, Rival] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name not in offered:
            missing[name] = "pip install 'edgeexit-exporters[torch]'"
            continue
        try:
            factory: Callable[[Bundle, int], Rival] = offered[name].load()
            ready[name] = factory(bundle, threads)
        except EdgeExitError as error:
            missing[name] = error.problem if error.got is None else f"{error.problem}: {error.got}"
        except ImportError as error:
            missing[name] = f"{error.name or error} is not installed"
    return Rivals(ready, missing)
