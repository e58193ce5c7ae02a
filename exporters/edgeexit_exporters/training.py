"""Train heads with torch on what ONNX Runtime reads out of a graph: the backbone cannot change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import say
from edgeexit.data import Dataset
from edgeexit.errors import DataError, MissingPartError, ModelError, UsageError
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.cuts import Cut
from edgeexit_exporters.exits import place
from edgeexit_exporters.heads.table import TensorPlace
from edgeexit_exporters.settings import ExportSettings

if TYPE_CHECKING:
    from edgeexit.training.frozen import ActivationFeed
    from edgeexit.training.heads import HeadSpec
    from edgeexit.training.settings import TrainSettings
    from edgeexit_exporters.activations import GraphFeed
    from edgeexit_exporters.heads.trained import TrainedHead

__all__ = ["MAX_CANDIDATES", "opset", "reading_check", "train_exits"]

MAX_CANDIDATES = 8
"""Most candidates of "auto": each is trained for epochs."""

_STOPPING = 0.1
_PATIENCE = 3
_STEPS = 32
"""Least steps of an epoch, as far as the smallest batch allows: few samples should not mean few steps."""

_BATCHES = (16, 128)
_RECORDED_BYTES = 1 << 30
"""Activations up to this size are kept in memory, so that the backbone runs once and not once an epoch."""


def train_exits(
    analysis: Analysis, cuts: Sequence[Cut], fitting: Dataset, settings: ExportSettings
) -> tuple[tuple[Cut, ...], list[TrainedHead]]:
    """Train a head for each cut, and leave out those that learn nothing.

    With labels, heads learn from them and from the whole model's answers; with `--labels model` from its answers
    alone. A tenth of the fitting data says when to stop.

    Returns:
        The cuts whose heads learnt something, and the heads.

    Raises:
        MissingPartError: torch is not installed.
        DataError: There are too few samples, or of one class only.
        ModelError: No head learnt anything.
        UsageError: A head cannot be built as described.
    """
    try:
        from edgeexit.training.frozen import train_heads
        from edgeexit.training.heads import HeadSpec, build_head
        from edgeexit.training.settings import TrainSettings
        from edgeexit_exporters.activations import GraphActivations, GraphFeed
        from edgeexit_exporters.heads.trained import trained_head
    except ModuleNotFoundError as error:
        raise MissingPartError.package("--head trained", "edgeexit[train]") from error
    spec = HeadSpec.parse(settings.heads.architecture)
    places = [place(analysis.graph, analysis.infos, cut) for cut in cuts]
    seen, unseen = fitting.split(_STOPPING, settings.seed + 2)
    if not len(unseen):
        raise DataError(
            "there are too few samples to train heads on",
            got=len(fitting),
            expected="hundreds",
            remedy="add samples, or use --head gaussian",
        )
    training = TrainSettings(
        mode="distilled" if settings.labels == "model" else "combined",
        epochs=settings.heads.epochs,
        batch=int(np.clip(len(seen) // _STEPS, *_BATCHES)),
        patience=_PATIENCE,
        seed=settings.seed,
        threads=settings.threads,
    )
    source = GraphActivations(analysis, places, threads=settings.threads)
    feed = _kept(GraphFeed(source, seen, _labels(seen, settings), training.batch, settings.seed), settings)
    held = _kept(GraphFeed(source, unseen, _labels(unseen, settings), training.batch), settings)
    specs = [spec] * len(cuts)
    if settings.heads.trials:
        specs = _searched(analysis, cuts, places, feed, held, training, settings)
    heads = [
        build_head(
            each, where.info.shape, analysis.classes, channels_first=where.channels_first, seed=settings.seed + i
        )
        for i, (each, where) in enumerate(zip(specs, places, strict=True))
    ]
    names = [cut.after for cut in cuts]
    outcomes = train_heads(heads, feed, held, training, names=names, quiet=settings.quiet)
    learnt = [i for i, outcome in enumerate(outcomes) if outcome.converged]
    if not learnt:
        raise ModelError(
            "no exit head learnt anything",
            got=f"{len(heads)} heads, the best with {max(outcome.accuracy for outcome in outcomes):.1%} right",
            expected="better than always giving the commonest answer",
            remedy="more --epochs, more data, or --head gaussian; check --mean and --std",
        )
    if len(learnt) < len(heads):
        say(f"left out: {', '.join(o.name for o in outcomes if not o.converged)}")
    number = opset(analysis)
    return (
        tuple(cuts[i] for i in learnt),
        [trained_head(heads[i], places[i], analysis.infos, number) for i in learnt],
    )


def reading_check(analysis: Analysis, settings: ExportSettings) -> Callable[[Cut], None]:
    """What refuses a cut after a tensor that the heads described cannot read: it raises a UsageError.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: The description cannot be read.
    """
    try:
        from edgeexit.training.heads import HeadSpec
    except ModuleNotFoundError as error:
        raise MissingPartError.package("--head trained", "edgeexit[train]") from error
    spec = HeadSpec.parse(settings.heads.architecture)

    def check(cut: Cut) -> None:
        where = place(analysis.graph, analysis.infos, cut)
        try:
            spec.sized(where.info.shape, analysis.classes, channels_first=where.channels_first)
        except UsageError as error:
            raise UsageError(
                f"the exit after {cut.after} cannot have a head {spec}",
                got=error.got,
                expected=error.expected,
                remedy="--exit-head auto, or another place",
            ) from error

    return check


def opset(analysis: Analysis) -> int:
    """The graph's operator set."""
    return next(int(entry.version) for entry in analysis.graph.model.opset_import if entry.domain == "")


def _labels(data: Dataset, settings: ExportSettings) -> NDArray[np.int64] | None:
    return None if settings.labels == "model" else data.labels


def _kept(feed: GraphFeed, settings: ExportSettings) -> ActivationFeed:
    """The feed's activations in memory, if they fit."""
    from edgeexit.training.search import record

    if feed.size_bytes > _RECORDED_BYTES:
        return feed
    every = replace(feed, seed=None)  # in its order, in which no batch is left out; the recording shuffles
    return record(every, 2 * _RECORDED_BYTES, seed=feed.seed, quiet=settings.quiet)


def _searched(
    analysis: Analysis,
    cuts: Sequence[Cut],
    places: Sequence[TensorPlace],
    feed: ActivationFeed,
    held: ActivationFeed,
    training: TrainSettings,
    settings: ExportSettings,
) -> list[HeadSpec]:
    """The architecture found for each head; see `edgeexit.training.search`."""
    from edgeexit.training.heads import HeadSpec
    from edgeexit.training.search import SearchPlace, SearchSettings, search_heads

    found = search_heads(
        feed,
        held,
        [
            SearchPlace(c.after, p.info.shape, p.channels_first, c.macs_before)
            for c, p in zip(cuts, places, strict=True)
        ],
        analysis.whole_macs,
        analysis.classes,
        SearchSettings(
            trials=settings.heads.trials,
            storage=settings.heads.storage,
            max_drop=settings.max_drop,
            first=HeadSpec.parse(settings.heads.architecture),
            seed=settings.seed,
        ),
        training=training,
        quiet=settings.quiet,
    )
    for result in found:
        say(f"exit {result.name}: {result.spec}, {result.accuracy:.1%} right on samples held out")
    return [result.spec for result in found]
