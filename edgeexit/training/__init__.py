"""Training of exits with torch: attach them to a model, train them, search their architecture.

The only part of the core that needs torch, behind the extra `edgeexit[train]`. The names below are what
other programs may rely on; each is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeexit.errors import MissingPartError

if TYPE_CHECKING:
    from edgeexit.training.attach import MultiExit
    from edgeexit.training.feeding import Feed
    from edgeexit.training.frozen import train_heads
    from edgeexit.training.heads import HeadSpec
    from edgeexit.training.outcomes import ExitOutcome, TrainingResult
    from edgeexit.training.settings import TrainSettings
    from edgeexit.training.store import load_run, restore, save_run
    from edgeexit.training.trainer import train

__all__ = [
    "ExitOutcome",
    "Feed",
    "HeadSpec",
    "MultiExit",
    "TrainSettings",
    "TrainingResult",
    "load_run",
    "restore",
    "save_run",
    "train",
    "train_heads",
]

_MODULES = {
    "attach": ("MultiExit",),
    "feeding": ("Feed",),
    "frozen": ("train_heads",),
    "heads": ("HeadSpec",),
    "outcomes": ("ExitOutcome", "TrainingResult"),
    "settings": ("TrainSettings",),
    "store": ("load_run", "restore", "save_run"),
    "trainer": ("train",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use.

    Raises:
        MissingPartError: torch is not installed.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'edgeexit.training' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"edgeexit.training.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingPartError.package("training", "edgeexit[train]") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
