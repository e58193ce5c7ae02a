"""What every kind of head is: a fitter while data streams by, then a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit_exporters.features import Features
from edgeexit_exporters.split import HeadNodes

__all__ = ["Head", "HeadFitter", "HeadSettings"]


@dataclass(frozen=True)
class HeadSettings:
    """What a user may choose about heads.

    Attributes:
        kind: "gaussian", "class-means" or "trained".
        means_bytes: Memory for the class means of one exit, in bytes (class-means heads).
        max_features: Most features of one exit (Gaussian heads).
        updatable: Keep what a device needs to update Gaussian heads: 2 D² bytes an exit of D features.
            Class-means heads can be updated in any case, trained heads never.
        epochs: Times through the data (trained heads).
        architecture: Of trained heads, as `edgeexit.training.HeadSpec` writes it.
        trials: Architectures to try for each exit before the heads are trained; 0 for none.
        storage: The SQLite file from which a search that was stopped goes on; "" keeps none.
    """

    kind: str = "gaussian"
    means_bytes: int = 64 * 1024
    max_features: int = 1536
    updatable: bool = False
    epochs: int = 10
    architecture: str = "auto"
    trials: int = 0
    storage: str = ""


class Head(Protocol):
    """A fitted head."""

    @property
    def kind(self) -> str:
        """The name of its kind, as in `KINDS`."""

    @property
    def features(self) -> Features:
        """What it reads."""

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, C) of features (n, D): what the nodes compute, in NumPy."""

    def nodes(self, prefix: str) -> HeadNodes:
        """The head in ONNX, its names beginning with `prefix`."""


class HeadFitter(Protocol):
    """Collects running sums in one pass; memory does not grow with the samples."""

    features: Features

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add features (n, D) of samples in random order, with labels (n,)."""

    def variants(self) -> Sequence[Head]:
        """The heads that the sums allow, for a choice on the calibration split. Ends the fitting."""
