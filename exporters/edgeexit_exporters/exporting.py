"""From source models and data to a bundle: the whole road, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import check_destination, write_bundle
from edgeexit.console import progress
from edgeexit.data import Dataset
from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest
from edgeexit.policies import AUTO, MaxProbability, Policy
from edgeexit.replay import judge
from edgeexit.thresholds import MaxDrop
from edgeexit.tuning import tune_all
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.cuts import Cut
from edgeexit_exporters.exits import choose_cuts, place
from edgeexit_exporters.fit import CachedLogits, FeatureModel, cache_logits, fit_heads
from edgeexit_exporters.heads import HEADS
from edgeexit_exporters.heads.model import model_logits
from edgeexit_exporters.loading import check_places, open_splits, prepare
from edgeexit_exporters.packing import Calibrated, golden_samples, pack
from edgeexit_exporters.selection import cascade_costs, select_exits, select_exits_selfxit
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.split import ExitPoint, split

__all__ = ["export"]

_WHOLE_MODEL = "whole model"


@dataclass(frozen=True)
class _Exit:
    """An exit with its logits on the calibration split, and the backbone's MACs up to it."""

    kind: str
    point: ExitPoint
    logits: NDArray[np.float32]
    backbone: int


def export(
    sources: Sequence[str],
    data: str | Path,
    output: str | Path,
    settings: ExportSettings,
    *,
    calibration: str | Path | None = None,
) -> Manifest:
    """Export source models to a bundle.

    Args:
        sources: `.onnx` files or `module:function`; several make a cascade of models, small to large.
        data: What heads are fitted on: an image folder or an `.npz`.
        output: The bundle to write: a folder, or an archive if it ends in `.eexit`.
        settings: Everything else.
        calibration: What temperatures and thresholds are fitted on; a tenth of `data` if None.

    Returns:
        The manifest of the bundle written.

    Raises:
        EdgeExitError: As `edgeexit.errors` says. Nothing is written then.
    """
    check_places(output, data, calibration)
    check_destination(output)
    prepared = prepare(sources, data, settings)
    fitting, held = open_splits(prepared, data, calibration, settings)
    cuts = _choose(prepared.analysis, settings)
    cached = _fit(prepared.analysis, cuts, fitting, held, settings)
    exits = _select(_in_order(prepared.analysis, cuts, cached), cached.labels, settings)
    policy, exits = _without_unused(exits, cached.labels, settings)
    cascade = _assemble(prepared.analysis, exits, policy, cached, held, held_out=calibration is None)
    golden = golden_samples(cascade, prepared.analysis, threads=settings.threads)
    manifest, contents = pack(
        prepared,
        cascade,
        golden,
        class_names=fitting.class_names,
        max_drop=settings.max_drop,
        labels=settings.labels,
    )
    write_bundle(output, manifest, contents)
    return manifest


def _choose(analysis: Analysis, settings: ExportSettings) -> tuple[Cut, ...]:
    wanted = settings.exits
    if wanted is None:
        brings_exits = len(analysis.own) > max(1, len(analysis.stages))
        wanted = "0" if brings_exits else "auto"
    if wanted == "0" and len(analysis.own) == 1:
        raise UsageError(
            "a plain classifier needs at least one exit", got="--exits 0", expected="auto, a number, or names"
        )
    return choose_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages, wanted)


def _fit(
    analysis: Analysis, cuts: Sequence[Cut], fitting: Dataset, held: Dataset, settings: ExportSettings
) -> CachedLogits:
    build = HEADS[settings.head.kind]
    fitters = [build(place(analysis.graph, analysis.infos, cut), analysis.classes, settings.head) for cut in cuts]
    model = FeatureModel(analysis.graph, fitters, [own.tensor for own in analysis.own], threads=settings.threads)
    common = {"use_model_labels": settings.labels == "model", "quiet": settings.quiet}
    variants = fit_heads(model, fitters, fitting, seed=settings.seed, **common) if fitters else []
    return cache_logits(model, variants, held, analysis.classes, seed=settings.seed + 1, **common)


def _in_order(analysis: Analysis, cuts: Sequence[Cut], cached: CachedLogits) -> list[_Exit]:
    """Fitted exits and the models' own, in the order of the cascade."""
    found: list[tuple[str, ExitPoint, NDArray[np.float32]]] = []
    for cut, head, logits in zip(cuts, cached.heads, cached.candidates, strict=True):
        found.append((head.kind, ExitPoint(cut.after, cut.done, head.nodes(f"exit.{cut.after}.")), logits))
    for number, (own, logits) in enumerate(zip(analysis.own, cached.own, strict=True)):
        nodes = model_logits(own.tensor, analysis.infos[own.tensor], f"own{number}.")
        name = _WHOLE_MODEL if len(analysis.own) == 1 else own.name
        found.append(("model", ExitPoint(name, own.done(analysis.graph, analysis.stages), nodes), logits))
    found.sort(key=lambda entry: (analysis.spent(entry[1].done), entry[0] == "model"))
    exits, done = [], 0
    for kind, point, logits in found:
        done |= point.done
        exits.append(_Exit(kind, point, logits, analysis.spent(done)))
    return exits


def _select(exits: list[_Exit], labels: NDArray[np.int64], settings: ExportSettings) -> list[_Exit]:
    """With "auto", only the exits that pay; the models' own always stay."""
    fitted = [i for i, exit_ in enumerate(exits) if exit_.kind != "model"]
    if settings.exits not in (None, "auto") or not fitted:
        return exits
    logits = [exit_.logits for exit_ in exits]
    judgement = judge(MaxProbability.fit(logits, labels), logits)
    candidates = (
        judgement.score,
        judgement.label == labels,
        np.asarray([exit_.backbone for exit_ in exits], dtype=np.float64),
        np.asarray([exit_.point.head.macs for exit_ in exits], dtype=np.float64),
    )
    keep = [i for i in range(len(exits)) if i not in fitted]
    with progress("choosing exits", 1, quiet=settings.quiet) as advance:
        if settings.placement == "selfxit":
            kept = select_exits_selfxit(*candidates, max_drop=settings.max_drop, keep=keep)
        else:
            kept = select_exits(*candidates, max_drop=settings.max_drop, min_gain=settings.min_gain, keep=keep)
        advance(1)
    return [exits[i] for i in kept]


def _cheapest_policy(
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    settings: ExportSettings,
) -> Policy:
    """Fit the policies asked for, each with its thresholds; take the one with the least mean cost.

    Raises:
        UnreachableError: None keeps the loss within the limit, even with nobody leaving early.
    """
    names = AUTO if settings.policy == "auto" else (settings.policy,)
    goal = MaxDrop(settings.max_drop)
    return tune_all(names, logits, labels, costs, goal, method="joint", seed=settings.seed)[0].policy


def _without_unused(
    exits: list[_Exit], labels: NDArray[np.int64], settings: ExportSettings
) -> tuple[Policy, list[_Exit]]:
    """Fit the policy; with "auto", leave out fitted exits that nobody takes, and fit it anew."""
    while True:
        policy = _cheapest_policy([exit_.logits for exit_ in exits], labels, _costs(exits), settings)
        used = [e for e, t in zip(exits, policy.thresholds, strict=True) if e.kind == "model" or np.isfinite(t)]
        if settings.exits not in (None, "auto") or len(used) == len(exits):
            return policy, exits
        exits = used


def _costs(exits: Sequence[_Exit]) -> NDArray[np.float64]:
    heads = np.asarray([exit_.point.head.macs for exit_ in exits], dtype=np.float64)
    return cascade_costs(np.asarray([exit_.backbone for exit_ in exits], dtype=np.float64), heads)


def _assemble(
    analysis: Analysis,
    exits: Sequence[_Exit],
    policy: Policy,
    cached: CachedLogits,
    held: Dataset,
    *,
    held_out: bool,
) -> Calibrated:
    return Calibrated(
        segments=split(analysis.graph, analysis.infos, [exit_.point for exit_ in exits], analysis.classes),
        kinds=[exit_.kind for exit_ in exits],
        policy=policy,
        costs=_costs(exits),
        logits=[exit_.logits for exit_ in exits],
        labels=cached.labels,
        rows=cached.rows,
        data=held,
        held_out=held_out,
    )
