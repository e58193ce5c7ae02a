"""One pass over data fits every head; one pass over the calibration split caches every exit's logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature, negative_log_likelihood
from edgeexit.console import progress
from edgeexit.data import Dataset
from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.features import Features
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.heads import Head, HeadFitter
from edgeexit_exporters.probe import session

__all__ = ["CachedLogits", "FeatureModel", "Reader", "cache_logits", "fit_heads", "whole_answers"]

_BATCH = 128
_MAX_CACHE_BYTES = 1 << 30
_CHOICE_ELEMENTS = 1_000_000
_CHOICE_ROWS = (256, 4096)


class Reader(Protocol):
    """A head, or what makes one: it reads features."""

    @property
    def features(self) -> Features:
        """Which."""


class FeatureModel:
    """The whole graph with the features of every candidate exit as outputs.

    Args:
        graph: The whole graph.
        readers: One for each candidate exit.
        logits: The model's own logits, cheapest first; the last is the whole model's.
        threads: For ONNX Runtime; 0 takes all cores.
    """

    def __init__(self, graph: Graph, readers: Sequence[Reader], logits: Sequence[str], *, threads: int) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        for reader in readers:
            model.graph.node.extend(reader.features.nodes)
            model.graph.initializer.extend(reader.features.initializers)
        self.features = [reader.features.output for reader in readers]
        self.logits = list(logits)
        self._names = [*self.features, *self.logits]
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(self._names))
        self._session = session(model, threads=threads)

    def run(
        self, data: Dataset, order: NDArray[np.int64], description: str, *, quiet: bool, size: int = _BATCH
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]], list[NDArray[np.float32]]]]:
        """Batches of (positions in the data set, features of each candidate, logits of each own exit), n rows each."""
        with progress(description, len(order), quiet=quiet) as advance:
            start = 0
            for batch in data.batches(size, order):
                rows = order[start : start + size]
                values = [np.asarray(value) for value in self._session.run(self._names, batch)]
                flat = [value.reshape(len(rows), -1).astype(np.float32, copy=False) for value in values]
                yield rows, flat[: len(self.features)], flat[len(self.features) :]
                start += len(rows)
                advance(len(rows))


def fit_heads(
    model: FeatureModel, fitters: Sequence[HeadFitter], data: Dataset, *, use_model_labels: bool, seed: int, quiet: bool
) -> list[Sequence[Head]]:
    """Stream the data once, in random order, and fit all heads.

    Returns:
        For each candidate the variants to choose from on the calibration split.

    Raises:
        DataError: A sample cannot be read, or the features of the model are not finite.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    for rows, features, logits in model.run(data, order, "fitting heads", quiet=quiet):
        labels = logits[-1].argmax(axis=1) if use_model_labels else _labels(data)[rows]
        for fitter, values in zip(fitters, features, strict=True):
            fitter.add(values, labels)
    with progress("solving", len(fitters), quiet=quiet) as advance:
        variants = []
        for fitter in fitters:
            variants.append(fitter.variants())
            advance(1)
    return variants


@dataclass(frozen=True)
class CachedLogits:
    """Logits of the calibration split.

    Attributes:
        candidates: For each candidate exit, (N, C).
        own: For each exit that the model brings, (N, C); the last is the whole model's.
        heads: The head chosen for each candidate.
        labels: (N,) what counts as right.
        rows: (N,) positions in the data set.
    """

    candidates: list[NDArray[np.float32]]
    own: list[NDArray[np.float32]]
    heads: list[Head]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


def cache_logits(
    model: FeatureModel,
    variants: Sequence[Sequence[Head]],
    data: Dataset,
    classes: int,
    *,
    use_model_labels: bool,
    seed: int,
    quiet: bool,
) -> CachedLogits:
    """Stream the calibration split once, choosing each candidate's variant by likelihood on the way.

    At most 1 GiB of logits is kept: of a larger split a random part is used.
    """
    exits = len(variants) + len(model.logits)
    limit = max(1000, _MAX_CACHE_BYTES // (4 * exits * classes))
    order = np.random.default_rng(seed).permutation(len(data))[:limit]
    choice_rows = int(np.clip(_CHOICE_ELEMENTS // classes, *_CHOICE_ROWS))
    kept: list[list[list[NDArray[np.float32]]]] = [[[] for _ in heads] for heads in variants]
    chosen: list[int | None] = [0 if len(heads) == 1 else None for heads in variants]
    own: list[list[NDArray[np.float32]]] = [[] for _ in model.logits]
    labels: list[NDArray[np.int64]] = []

    def choose() -> None:
        known = np.concatenate(labels)
        for i in range(len(variants)):
            if chosen[i] is None:
                losses = [_loss(np.concatenate(parts), known) for parts in kept[i]]
                chosen[i] = int(np.argmin(losses))
                kept[i] = [parts if j == chosen[i] else [] for j, parts in enumerate(kept[i])]

    seen = 0
    for rows, features, logits in model.run(data, order, "calibrating", quiet=quiet):
        for i, values in enumerate(features):
            for j, head in enumerate(variants[i]):
                if chosen[i] in (None, j):
                    kept[i][j].append(head.forward(values))
        for parts, values in zip(own, logits, strict=True):
            parts.append(values.copy())
        labels.append(logits[-1].argmax(axis=1) if use_model_labels else _labels(data)[rows])
        seen += len(rows)
        if seen >= choice_rows and None in chosen:
            choose()
    choose()
    picks = [index or 0 for index in chosen]
    cached = CachedLogits(
        candidates=[np.concatenate(kept[i][pick]) for i, pick in enumerate(picks)],
        own=[np.concatenate(parts) for parts in own],
        heads=[variants[i][pick] for i, pick in enumerate(picks)],
        labels=np.concatenate(labels),
        rows=order,
    )
    if not all(np.isfinite(values).all() for values in [*cached.own, *cached.candidates]):
        raise ModelError(
            "the model or a head answers with values that are not finite",
            expected="finite logits",
            remedy="check the model, and that the data are scaled as it expects (--mean, --std)",
        )
    return cached


def whole_answers(
    analysis: Analysis, data: Dataset, rows: NDArray[np.int64], *, threads: int, quiet: bool
) -> NDArray[np.int64]:
    """The whole model's answers for these samples, (len(rows),).

    Raises:
        DataError: A sample cannot be read.
    """
    model = FeatureModel(analysis.graph, [], [analysis.own[-1].tensor], threads=threads)
    found = [logits[-1].argmax(axis=1) for _, _, logits in model.run(data, rows, "float model", quiet=quiet)]
    return np.concatenate(found)


def _loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return negative_log_likelihood(logits, labels, fit_temperature(logits, labels))


def _labels(data: Dataset) -> NDArray[np.int64]:
    if data.labels is None:
        raise DataError("the data have no labels", remedy="give labels, or use --labels model")
    return data.labels
