"""From source models and data to a bundle: the whole road, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import check_destination, write_bundle
from edgeexit.console import progress
from edgeexit.data import Dataset
from edgeexit.errors import UnreachableError, UsageError
from edgeexit.manifest import Manifest
from edgeexit.policies import AUTO, MaxProbability, Policy
from edgeexit.replay import judge
from edgeexit.thresholds import MaxDrop
from edgeexit.tuning import tune_all
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.candidates import candidate_cuts, fit_candidates, wanted_exits
from edgeexit_exporters.cuts import Cut
from edgeexit_exporters.fit import CachedLogits, whole_answers
from edgeexit_exporters.heads.model import model_logits
from edgeexit_exporters.loading import Prepared, check_places, open_splits, prepare
from edgeexit_exporters.packing import Calibrated, golden_samples, pack
from edgeexit_exporters.payloads import measure_payloads
from edgeexit_exporters.precision import channels_last, in_precision, parse_precision, refuse_missing
from edgeexit_exporters.selection import cascade_costs, check_macs, select_exits, select_exits_selfxit
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
    original = prepare(sources, data, settings)
    fitting, held = open_splits(original, data, calibration, settings)
    prepared, cuts = _convert(original, fitting, settings)
    cuts, cached = fit_candidates(prepared, cuts, fitting, held, settings)
    cached, reference = _against(original.analysis, prepared.analysis, cached, held, settings)
    exits = _select(_in_order(prepared, cuts, cached), cached.labels, reference, settings)
    policy, exits = _without_unused(exits, cached.labels, reference, settings)
    cascade = _assemble(
        prepared.analysis, exits, policy, cached, reference, held, settings, held_out=calibration is None
    )
    golden = golden_samples(cascade, threads=settings.threads)
    payloads = measure_payloads(cascade, threads=settings.threads, seed=settings.seed, quiet=settings.quiet)
    manifest, contents = pack(
        prepared,
        cascade,
        golden,
        class_names=fitting.class_names,
        max_drop=settings.max_drop,
        labels=settings.labels,
        payloads=payloads,
    )
    write_bundle(output, manifest, contents)
    return manifest


def _convert(original: Prepared, fitting: Dataset, settings: ExportSettings) -> tuple[Prepared, tuple[Cut, ...]]:
    """The model in the precision asked for, and where it is cut.

    Where each segment has a precision of its own, the cuts are chosen before; the tensors keep their names.

    Raises:
        UsageError: An exit was named after a tensor that is not there in this precision.
    """
    wanted = parse_precision(settings.precision)
    exits = wanted_exits(original, settings)
    if len(wanted) > 1 and exits == "auto":
        raise UsageError(
            "a precision for each segment needs segments that are known beforehand",
            got=f"--precision {settings.precision} with --exits auto",
            expected="--exits with a number or names",
        )
    known = len(wanted) > 1 or bool(original.attached) or not (exits == "auto" or exits.isdigit())
    cuts = candidate_cuts(original, settings) if known else ()
    analysis = in_precision(
        original.analysis,
        wanted,
        fitting,
        cut_names=[cut.after for cut in cuts],
        symmetric=settings.symmetric,
        seed=settings.seed,
        quiet=settings.quiet,
    )
    refuse_missing(analysis, [cut.after for cut in cuts])
    if cuts:
        settings = replace(settings, exits=",".join(cut.after for cut in cuts))
    prepared = replace(original, analysis=analysis)
    return prepared, candidate_cuts(prepared, settings)


def _against(
    original: Analysis, analysis: Analysis, cached: CachedLogits, held: Dataset, settings: ExportSettings
) -> tuple[CachedLogits, NDArray[np.bool_] | None]:
    """(N,) whether the model as it came is right; None where it is the whole model of the bundle.

    With the model's own answers as labels, they are those of the model as it came.
    """
    if analysis is original:
        return cached, None
    answers = whole_answers(original, held, cached.rows, threads=settings.threads, quiet=settings.quiet)
    labels = answers if settings.labels == "model" else cached.labels
    return replace(cached, labels=labels), answers == labels


def _in_order(prepared: Prepared, cuts: Sequence[Cut], cached: CachedLogits) -> list[_Exit]:
    """Fitted exits and the models' own, in the order of the cascade."""
    analysis = prepared.analysis
    names = {entry.tensor: entry.name for entry in prepared.attached}
    found: list[tuple[str, ExitPoint, NDArray[np.float32]]] = []
    for cut, head, logits in zip(cuts, cached.heads, cached.candidates, strict=True):
        found.append(
            (head.kind, ExitPoint(names.get(cut.after, cut.after), cut.done, head.nodes(f"exit.{cut.after}.")), logits)
        )
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


def _select(
    exits: list[_Exit], labels: NDArray[np.int64], reference: NDArray[np.bool_] | None, settings: ExportSettings
) -> list[_Exit]:
    """With "auto", only the exits that pay; the models' own always stay."""
    fitted = [i for i, exit_ in enumerate(exits) if exit_.kind != "model"]
    if settings.exits not in (None, "auto") or not fitted:
        return exits
    logits = [exit_.logits for exit_ in exits]
    judgement = judge(MaxProbability.fit(logits, labels), logits)
    candidates = (
        judgement.score,
        judgement.label == labels,
        _backbone(exits),
        _head_costs(exits, settings),
    )
    keep = [i for i in range(len(exits)) if i not in fitted]
    lost = 0.0 if reference is None else float(reference.mean() - (logits[-1].argmax(axis=1) == labels).mean())
    allowed = max(0.0, settings.max_drop - lost)
    with progress("choosing exits", 1, quiet=settings.quiet) as advance:
        if settings.placement == "selfxit":
            kept = select_exits_selfxit(*candidates, max_drop=allowed, keep=keep)
        else:
            kept = select_exits(*candidates, max_drop=allowed, min_gain=settings.min_gain, keep=keep)
        advance(1)
    return [exits[i] for i in kept]


def _cheapest_policy(
    exits: Sequence[_Exit],
    labels: NDArray[np.int64],
    reference: NDArray[np.bool_] | None,
    settings: ExportSettings,
) -> Policy:
    """Fit the policies asked for, each with its thresholds; take the one with the least mean cost, checks charged.

    Raises:
        UnreachableError: None keeps the loss within the limit, even with nobody leaving early.
    """
    names = AUTO if settings.policy == "auto" else (settings.policy,)
    goal = MaxDrop(settings.max_drop)
    logits = [exit_.logits for exit_ in exits]

    def price(policy: Policy) -> NDArray[np.float64]:
        return cascade_costs(_backbone(exits), _head_costs(exits, settings, policy.name))

    costs = cascade_costs(_backbone(exits), _head_costs(exits, settings))
    try:
        found = tune_all(
            names, logits, labels, costs, goal, method="joint", seed=settings.seed, price=price, reference=reference
        )
    except UnreachableError as error:
        if reference is None:
            raise
        raise _lost_by_precision(logits[-1].argmax(axis=1) == labels, reference, goal, settings) from error
    return found[0].policy


def _lost_by_precision(
    right: NDArray[np.bool_], reference: NDArray[np.bool_], goal: MaxDrop, settings: ExportSettings
) -> UnreachableError:
    loss = reference.astype(np.float64) - right
    least = float(loss.mean() + goal.reserve * loss.std() / np.sqrt(len(loss)))
    return UnreachableError(
        f"no thresholds keep the loss within the limit: {settings.precision} takes accuracy too",
        got=f"{goal.limit:g}",
        expected=f"at least {max(0.0, least):.4f}: with nobody leaving early {float(loss.mean()):.4f} is lost from the "
        f"{float(reference.mean()):.4f} of the model before, and one standard error is kept in reserve",
        remedy="allow a larger loss, or keep segments in fp32, such as --precision fp32,int8,int8",
    )


def _without_unused(
    exits: list[_Exit], labels: NDArray[np.int64], reference: NDArray[np.bool_] | None, settings: ExportSettings
) -> tuple[Policy, list[_Exit]]:
    """Fit the policy; with "auto", leave out fitted exits that nobody takes, and fit it anew."""
    while True:
        policy = _cheapest_policy(exits, labels, reference, settings)
        used = [e for e, t in zip(exits, policy.thresholds, strict=True) if e.kind == "model" or np.isfinite(t)]
        if settings.exits not in (None, "auto") or len(used) == len(exits):
            return policy, exits
        exits = used


def _backbone(exits: Sequence[_Exit]) -> NDArray[np.float64]:
    return np.asarray([exit_.backbone for exit_ in exits], dtype=np.float64)


def _head_macs(exits: Sequence[_Exit]) -> NDArray[np.float64]:
    return np.asarray([exit_.point.head.macs for exit_ in exits], dtype=np.float64)


def _head_costs(exits: Sequence[_Exit], settings: ExportSettings, policy: str | None = None) -> NDArray[np.float64]:
    """(E,) MACs of the heads, and those that take as long as the rest of each check; the last exit makes none."""
    costs = _head_macs(exits)
    costs[:-1] += check_macs(exits[-1].backbone, policy) if settings.check_macs is None else settings.check_macs
    return costs


def _assemble(
    analysis: Analysis,
    exits: Sequence[_Exit],
    policy: Policy,
    cached: CachedLogits,
    reference: NDArray[np.bool_] | None,
    held: Dataset,
    settings: ExportSettings,
    *,
    held_out: bool,
) -> Calibrated:
    segments = split(analysis.graph, analysis.infos, [exit_.point for exit_ in exits], analysis.classes)
    infos = analysis.infos
    if not settings.symmetric:
        segments, infos = channels_last(segments, infos)
    return Calibrated(
        segments=segments,
        infos=infos,
        kinds=[exit_.kind for exit_ in exits],
        policy=policy,
        costs=cascade_costs(_backbone(exits), _head_macs(exits)),
        logits=[exit_.logits for exit_ in exits],
        labels=cached.labels,
        reference=reference,
        rows=cached.rows,
        data=held,
        held_out=held_out,
    )
