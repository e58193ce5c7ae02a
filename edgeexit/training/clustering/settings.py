"""How a clustering network is pretrained and clustered: frozen settings that refuse what cannot be."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeexit.errors import UsageError
from edgeexit.training.clustering.distortion import Distortion

__all__ = ["ClusterSettings", "Precision", "PretrainSettings"]

Precision = Literal["fp32", "bf16"]


class PretrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a clustering network is pretrained.

    Attributes:
        epochs: Passes over the samples.
        batch: Samples a step.
        rate: Adam's highest rate; it rises for a tenth of the steps and falls to 0 along a cosine.
        noise: Share of the inputs that are set to 0 at random, as in a denoising autoencoder.
        distortion: Of pictures. The decoder is to give back what was shown, less the noise.
        precision: Of the matrix products; bf16 is quicker where the device has instructions for it.
        seed: Of the order, the noise, the distortion and the decoder.
    """

    epochs: int = 60
    batch: int = 256
    rate: float = 1e-3
    noise: float = 0.0
    distortion: Distortion = Distortion()
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.rate > 0 or not 0 <= self.noise < 1:
            raise UsageError(
                "a setting of the pretraining is out of range",
                got=f"epochs {self.epochs}, batch {self.batch}, rate {self.rate:g}, noise {self.noise:g}",
                expected="epochs and batch of at least 1, a rate above 0, noise from 0 to below 1",
            )


class ClusterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a pretrained network is clustered.

    Attributes:
        epochs: Most passes over the samples in which the whole model learns.
        exit_epochs: Passes in which the early exits learn from it.
        batch: Samples a step.
        rate: Adam's rate for the whole model.
        exit_rate: Adam's highest rate for the exits; it rises and falls.
        tolerance: The whole model is done when at most this share of the samples changed cluster in an epoch.
        restarts: Of k-means.
        distortion: Of pictures, whose target stays that of the picture as it is.
        precision: Of the matrix products while learning; assignments are always reckoned in fp32.
        seed: Of k-means, the order and the distortion.
    """

    epochs: int = 30
    exit_epochs: int = 20
    batch: int = 256
    rate: float = 1e-4
    exit_rate: float = 1e-3
    tolerance: float = 0.001
    restarts: int = 20
    distortion: Distortion = Distortion()
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.epochs, self.exit_epochs, self.batch, self.restarts)
        if min(counts) < 1 or not min(self.rate, self.exit_rate) > 0 or not 0 <= self.tolerance < 1:
            raise UsageError(
                "a setting of the clustering is out of range",
                got=f"epochs, exit epochs, batch, restarts {counts}, rates {self.rate:g} and {self.exit_rate:g}, "
                f"tolerance {self.tolerance:g}",
                expected="counts of at least 1, rates above 0, a tolerance from 0 to below 1",
            )
