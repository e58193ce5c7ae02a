"""The kinds of head by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeexit_exporters.features import grid_features, pooled_block_features
from edgeexit_exporters.heads.base import HeadFitter, HeadSettings
from edgeexit_exporters.heads.class_means import ClassMeansFitter
from edgeexit_exporters.heads.gaussian import GaussianFitter
from edgeexit_exporters.probe import TensorInfo

__all__ = ["HEADS", "KINDS", "TensorPlace"]


@dataclass(frozen=True)
class TensorPlace:
    """A tensor that a head reads, and how to read it."""

    tensor: str
    info: TensorInfo
    prefix: str
    channels_first: bool
    mask: str | None


def _gaussian(place: TensorPlace, classes: int, settings: HeadSettings) -> HeadFitter:
    features = grid_features(
        place.tensor,
        place.info,
        place.prefix,
        limit=settings.max_features,
        channels_first=place.channels_first,
        mask=place.mask,
    )
    return GaussianFitter(features, classes, updatable=settings.updatable)


def _class_means(place: TensorPlace, classes: int, settings: HeadSettings) -> HeadFitter:
    limit = max(1, settings.means_bytes // (4 * classes))
    return ClassMeansFitter(pooled_block_features(place.tensor, place.info, place.prefix, limit=limit), classes)


HEADS: dict[str, Callable[[TensorPlace, int, HeadSettings], HeadFitter]] = {
    "gaussian": _gaussian,
    "class-means": _class_means,
}
"""Heads that are fitted in one pass, by name."""

KINDS = (*HEADS, "trained")
"""All kinds of head that can be added to a model; trained ones take torch."""
