"""The heads among which a search may choose (SelfXit, section 3.2.1).

Up to two convolutions with choices of channels, kernel and stride, a pooling grid, up to two linear layers before the
classifier; besides them SDN's mixed pooling, and for tokens which token is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from edgeexit.training.heads import HeadSpec

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["HeadSpace"]

_GRIDS = (1, 2, 4, 8)
_CHANNELS = (8, 16, 32, 64)
_KERNELS = (1, 3, 5)
_STRIDES = (1, 2, 4)
_WIDTHS = (32, 64, 128, 256)
_MOST_LAYERS = (0, 1, 2)

Value = TypeVar("Value", int, str)


class HeadSpace:
    """The space for one activation.

    Args:
        shape: Of one sample's activation.
        classes: C.
        channels_first: Whether the channels come first, where there are several axes.
        first: A head that must be in the space, whatever its sizes; its dropout is that of all.

    Attributes:
        first: The same with its sizes filled in.

    Raises:
        UsageError: `first` cannot read such activations.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, channels_first: bool, first: HeadSpec) -> None:
        self.shape, self.classes, self.channels_first = shape, classes, channels_first
        self.first = self._sized(first)
        self._is_map = len(shape) > 2 or (len(shape) == 2 and channels_first)
        self._kinds = ("linear", "mixed", "conv") if self._is_map else (self.first.kind,)
        spatial = shape[1:] if channels_first else shape[:-1]
        self._grids = tuple(grid for grid in _GRIDS if grid <= max(spatial, default=1))

    def suggest(self, trial: Trial) -> HeadSpec:
        """The head of a trial, its sizes filled in. Different choices may give the same head."""
        return self._sized(self._head(_Trial(trial)))

    @property
    def first_choices(self) -> dict[str, int | str]:
        """The parameters of a trial that suggests `first`."""
        known = _Known(self.first)
        self._head(known)
        return known.parameters

    def _sized(self, spec: HeadSpec) -> HeadSpec:
        return spec.sized(self.shape, self.classes, channels_first=self.channels_first)

    def _head(self, choice: _Choice) -> HeadSpec:
        """Ask for one choice after the other. Sizes are ordered, so that their neighbours are alike."""
        kind = choice.among("kind", self._kinds)
        fields: dict[str, object] = {"kind": kind, "dropout": self.first.dropout}
        if kind == "conv":
            fields["channels"] = self._layers(choice, "convolution", (1, 2), _CHANNELS, self.first.channels)
            fields["kernel"] = choice.along("kernel", _with(_KERNELS, self.first.kernel))
            fields["stride"] = choice.along("stride", _with(_STRIDES, self.first.stride))
            fields["grid"] = choice.along("cells", _with(self._grids, self.first.grid))
        elif kind == "token":
            fields["tokens"] = choice.among("tokens", ("first", "mean"))
        elif self._is_map:
            fields["grid"] = choice.along("grid", _with(self._grids, self.first.grid))
        fields["hidden"] = self._layers(choice, "hidden", _MOST_LAYERS, _WIDTHS, self.first.hidden)
        return msgspec.convert(fields, HeadSpec)

    def _layers(
        self, choice: _Choice, word: str, numbers: tuple[int, ...], widths: tuple[int, ...], first: tuple[int, ...]
    ) -> tuple[int, ...]:
        number = choice.along(f"{word}s", numbers)
        return tuple(choice.along(f"{word} {k}", _with(widths, *first)) for k in range(1, number + 1))


class _Choice(Protocol):
    """Who chooses."""

    def among(self, name: str, options: Sequence[str]) -> str:
        """One of options that have no order."""

    def along(self, name: str, options: Sequence[int]) -> int:
        """One of rising options."""


class _Trial:
    """An Optuna trial chooses."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def among(self, name: str, options: Sequence[str]) -> str:
        return str(self._trial.suggest_categorical(name, list(options)))

    def along(self, name: str, options: Sequence[int]) -> int:
        return options[self._trial.suggest_int(name, 0, len(options) - 1)]


class _Known:
    """The head is known, and its choices are written down."""

    def __init__(self, spec: HeadSpec) -> None:
        self.parameters: dict[str, int | str] = {}
        self._values: dict[str, int | str] = {
            "kind": spec.kind, "tokens": spec.tokens, "kernel": spec.kernel, "stride": spec.stride,
            "grid": spec.grid, "cells": spec.grid, "convolutions": len(spec.channels), "hiddens": len(spec.hidden),
        }  # fmt: skip
        self._values |= {f"convolution {k}": width for k, width in enumerate(spec.channels, 1)}
        self._values |= {f"hidden {k}": width for k, width in enumerate(spec.hidden, 1)}

    def among(self, name: str, options: Sequence[str]) -> str:
        value = str(self._values[name])
        self.parameters[name] = value
        return value

    def along(self, name: str, options: Sequence[int]) -> int:
        value = int(self._values[name])
        self.parameters[name] = options.index(value)
        return value


def _with(options: Sequence[int], *more: int) -> tuple[int, ...]:
    return tuple(sorted({*options, *more}))
