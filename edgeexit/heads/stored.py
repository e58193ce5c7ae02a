"""`statistics.safetensors`: what each fitted exit's head can be continued from, by name.

The name of a tensor is a word and the exit's index: `counts.2` has the counts of exit 2. Heads whose
statistics are in the file are the Gaussian and class-means heads of segments that name their features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.heads.base import HeadStatistics, Learner
from edgeexit.heads.class_means import ClassMeansLearner, ClassMeansStatistics
from edgeexit.heads.gaussian import GaussianLearner, GaussianStatistics
from edgeexit.manifest import Manifest

__all__ = [
    "CLOSED_FORMS",
    "ClosedForm",
    "continued_exits",
    "head_names",
    "load_statistics",
    "statistics_shapes",
    "stored_statistics",
]


class ClosedForm(NamedTuple):
    """A kind of head with a closed form."""

    statistics: type[GaussianStatistics] | type[ClassMeansStatistics]
    learner: Callable[[int, int, Any], Learner]  # classes, feature length, statistics to start from


CLOSED_FORMS = {
    "gaussian": ClosedForm(GaussianStatistics, GaussianLearner),
    "class-means": ClosedForm(ClassMeansStatistics, ClassMeansLearner),
}
"""By the name that a manifest gives the head."""


def continued_exits(manifest: Manifest) -> dict[int, int]:
    """The exits whose heads can be continued where there are statistics, each with its feature length D."""
    return {
        k: segment.features.shape[0]
        for k, (entry, segment) in enumerate(zip(manifest.exits, manifest.segments, strict=True))
        if entry.head in CLOSED_FORMS and segment.features is not None
    }


def head_names(manifest: Manifest, index: int) -> dict[str, str]:
    """The tensors of exit `index` in `exits.safetensors`, by the last word of their names."""
    return {spec.name.rpartition(".")[2]: spec.name for spec in manifest.segments[index].policy_inputs}


def statistics_shapes(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data type and shape of every tensor that `statistics.safetensors` has, by name."""
    classes = len(manifest.labels)
    return {
        f"{word}.{k}": shape
        for k, length in continued_exits(manifest).items()
        for word, shape in CLOSED_FORMS[manifest.exits[k].head].statistics.shapes(classes, length).items()
    }


def load_statistics(
    manifest: Manifest, exits: Mapping[str, NDArray[Any]], stored: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[int, HeadStatistics]]:
    """The statistics of one exit after another, from tensors that have the shapes of `statistics_shapes`.

    In double precision those of a Gaussian head take four times the memory that they have in the file.

    Args:
        manifest: The bundle's manifest.
        exits: The tensors of `exits.safetensors`.
        stored: Those of `statistics.safetensors`.

    Yields:
        The exit's index and its statistics.

    Raises:
        BundleError: A head has other tensors than its kind needs, or its statistics are unusable.
    """
    classes = len(manifest.labels)
    for k, length in continued_exits(manifest).items():
        kind = CLOSED_FORMS[manifest.exits[k].head].statistics
        names = head_names(manifest, k)
        head = {word: exits[name] for word, name in names.items()}
        shapes = {word: array.shape for word, array in head.items()}
        expected = kind.head_shapes(classes, length)
        if shapes != expected:
            raise BundleError(
                f"exit {k} ({manifest.exits[k].name}) has other tensors than a {manifest.exits[k].head} head",
                got=shapes,
                expected=expected,
            )
        words = kind.shapes(classes, length)
        yield k, kind.load({word: stored[f"{word}.{k}"] for word in words}, head)


def stored_statistics(statistics: Iterable[tuple[int, HeadStatistics]]) -> dict[str, NDArray[Any]]:
    """The tensors of `statistics.safetensors`, from the statistics of one exit after another."""
    return {f"{word}.{k}": array for k, found in statistics for word, array in found.stored().items()}
