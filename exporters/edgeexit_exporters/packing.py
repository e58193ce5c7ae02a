"""Put the parts of an export into a bundle: golden samples, manifest, bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import CHECK_FILE, EXITS_FILE, STATISTICS_FILE, file_entry, segment_path
from edgeexit.data import Dataset
from edgeexit.drift import drift_reference
from edgeexit.errors import ModelError
from edgeexit.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    CalibrationSummary,
    ExitEntry,
    Manifest,
    PayloadEntry,
    Provenance,
    SegmentEntry,
    SourceEntry,
    TensorSpec,
)
from edgeexit.policies import Policy
from edgeexit.precision import TOLERANCES
from edgeexit.replay import judge, replay
from edgeexit.tensors import save_tensors
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.chain import Chain
from edgeexit_exporters.graph import Graph
from edgeexit_exporters.loading import Prepared
from edgeexit_exporters.macs import count_params
from edgeexit_exporters.precision import stored_precision
from edgeexit_exporters.probe import TensorInfo
from edgeexit_exporters.sources import Source
from edgeexit_exporters.split import HeadNodes, Segment

__all__ = ["Calibrated", "golden_samples", "pack"]

_GOLDEN_ROWS = 16
_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}
"""Of the chain against the whole graph, as a share of the largest logit.

Rounding to 16 or 8 bits makes a step of what was a difference in the last place of a float.
"""


@dataclass(frozen=True)
class Calibrated:
    """A cascade with thresholds, and the calibration split it got them from.

    Attributes:
        segments: E segments.
        infos: Dtype and axes of the tensors that cross between them.
        kinds: The kind of head of each exit.
        policy: With thresholds.
        costs: (E,) MACs of one sample until each exit answers, heads included.
        logits: E arrays of shape (N, C), of the calibration split.
        labels: (N,) what counts as right.
        reference: (N,) whether the model was right before its precision was changed; None where it was not.
        rows: (N,) positions in `data`.
        data: The calibration split.
        held_out: Whether it was held out of the fitting data.
    """

    segments: Sequence[Segment]
    infos: Mapping[str, TensorInfo]
    kinds: Sequence[str]
    policy: Policy
    costs: NDArray[np.float64]
    logits: Sequence[NDArray[np.float32]]
    labels: NDArray[np.int64]
    reference: NDArray[np.bool_] | None
    rows: NDArray[np.int64]
    data: Dataset
    held_out: bool


def golden_samples(cascade: Calibrated, *, threads: int = 0) -> dict[str, NDArray[Any]]:
    """Some samples of each exit with what the segments answer, checked against the whole model.

    Raises:
        ModelError: The chain of segments does not compute what the whole graph computes.
    """
    rows = _golden_rows(cascade)
    feeds = next(iter(cascade.data.batches(len(rows), cascade.rows[rows])))
    found = Chain(cascade.segments, threads=threads).logits(feeds)
    limit = max(_TOLERANCES[stored_precision(segment.model)] for segment in cascade.segments)
    for segment, ours, whole in zip(cascade.segments, found, cascade.logits, strict=True):
        scale = max(1.0, float(np.abs(whole[rows]).max()))
        error = float(np.abs(ours - whole[rows]).max()) / scale
        if not error <= limit:
            raise ModelError(
                f"the segments do not compute what the whole model computes (exit {segment.exit.name})",
                got=f"a relative difference of {error:.2g}",
                expected=f"at most {limit:g}",
                remedy="report this with the model: it is a defect of EdgeExit",
            )
    answers = replay(cascade.policy, found)
    golden: dict[str, NDArray[Any]] = {f"input.{name}": array for name, array in feeds.items()}
    golden |= {f"logits.{k}": values for k, values in enumerate(found)}
    return golden | {
        "labels": answers.label.astype(np.int64),
        "exits": answers.exit.astype(np.int64),
        "probabilities": answers.probability.astype(np.float32),
    }


def _golden_rows(cascade: Calibrated) -> NDArray[np.int64]:
    """Samples of every exit, of those whose answers no device that is right can turn, if there are any."""
    exits = replay(cascade.policy, cascade.logits).exit
    clear = _clear(cascade, exits, max(TOLERANCES[stored_precision(s.model)] for s in cascade.segments))
    usable = np.flatnonzero(clear) if clear.any() else np.arange(len(exits))
    number = len(cascade.segments)
    each = max(1, _GOLDEN_ROWS // number)
    chosen = [int(i) for k in range(number) for i in usable[exits[usable] == k][:each]]
    others = np.setdiff1d(usable, chosen)
    return np.asarray(sorted([*chosen, *others[: max(0, _GOLDEN_ROWS - len(chosen))]]))


def _clear(cascade: Calibrated, exits: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
    """(N,) whether scores are away from their thresholds, and the label from the next, by more than the tolerance."""
    thresholds = np.asarray(cascade.policy.thresholds, dtype=np.float64)[:, None]
    finite = np.where(np.isfinite(thresholds), thresholds, 0.0)
    scores = judge(cascade.policy, cascade.logits).score
    near = (np.abs(scores - finite) <= tolerance * np.maximum(1.0, np.abs(finite))) & np.isfinite(thresholds)
    reached = np.arange(len(thresholds))[:, None] <= exits
    logits = np.empty_like(cascade.logits[-1])
    for k, values in enumerate(cascade.logits):
        logits[exits == k] = values[exits == k]
    first_two = np.sort(logits, axis=1)[:, -2:]
    scale = np.asarray([np.abs(values).max() for values in cascade.logits])[exits]
    return ~(near & reached).any(axis=0) & (first_two[:, 1] - first_two[:, 0] > 2 * tolerance * scale)


def pack(
    prepared: Prepared,
    cascade: Calibrated,
    golden: Mapping[str, NDArray[Any]],
    *,
    class_names: tuple[str, ...],
    max_drop: float,
    labels: str,
    payloads: Sequence[tuple[PayloadEntry, ...] | None] | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the bytes of every other file."""
    analysis, policy = prepared.analysis, cascade.policy
    tensors: dict[str, NDArray[Any]] = dict(policy.tensors())
    statistics: dict[str, NDArray[Any]] = {}
    contents: dict[str, bytes] = {}
    segments, exits = [], []
    for k, segment in enumerate(cascade.segments):
        contents[segment_path(k)] = segment.model.SerializeToString(deterministic=True)
        tensors |= segment.exit.head.policy
        statistics |= {f"{word}.{k}": array for word, array in segment.exit.head.statistics.items()}
        entry = _segment_entry(analysis, cascade.infos, segment, segment_path(k), contents[segment_path(k)])
        segments.append(entry if payloads is None else msgspec.structs.replace(entry, payloads=payloads[k]))
        threshold = policy.thresholds[k]
        exits.append(
            ExitEntry(
                name=segment.exit.name,
                head=cascade.kinds[k],  # type: ignore[arg-type]
                criterion=policy.criterion,
                threshold=None if np.isinf(threshold) else threshold,
                cost=float(cascade.costs[k]) / analysis.whole_macs,
                cost_macs=int(cascade.costs[k]),
            )
        )
    contents[EXITS_FILE] = save_tensors(tensors)
    contents[CHECK_FILE] = save_tensors(golden)
    if statistics:
        contents[STATISTICS_FILE] = save_tensors(statistics)
    manifest = Manifest(
        format=FORMAT_NAME,
        version=FORMAT_VERSION,
        labels=class_names,
        inputs=prepared.inputs,
        preprocessing=prepared.preprocessing,
        segments=tuple(segments),
        exits=tuple(exits),
        policy=policy.entry(),
        macs=analysis.whole_macs,
        params=analysis.whole_params,
        calibration=_summary(cascade, analysis, max_drop, labels),
        provenance=_provenance(prepared.sources),
        exits_file=file_entry(EXITS_FILE, contents[EXITS_FILE]),
        check_file=file_entry(CHECK_FILE, contents[CHECK_FILE]),
        statistics_file=file_entry(STATISTICS_FILE, contents[STATISTICS_FILE]) if statistics else None,
    )
    return manifest, contents


def _segment_entry(
    analysis: Analysis, infos: Mapping[str, TensorInfo], segment: Segment, path: str, data: bytes
) -> SegmentEntry:
    head = segment.exit.head

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype=infos[name].dtype, shape=infos[name].shape)

    return SegmentEntry(
        file=file_entry(path, data),
        inputs=tuple(map(spec, segment.inputs)),
        policy_inputs=tuple(TensorSpec(name=n, dtype=t.dtype.name, shape=t.shape) for n, t in head.policy.items()),
        outputs=tuple(map(spec, segment.outputs)),
        logits=head.logits,
        features=_features(head),
        precision=stored_precision(segment.model),
        macs=analysis.spent(segment.nodes),
        params=count_params(Graph(segment.model)) - head.body_params,
        head_macs=head.macs,
        head_params=head.params,
    )


def _features(head: HeadNodes) -> TensorSpec | None:
    if head.features is None:
        return None
    return TensorSpec(name=head.features, dtype="float32", shape=(head.feature_length,))


def _summary(cascade: Calibrated, analysis: Analysis, max_drop: float, labels: str) -> CalibrationSummary:
    answers = replay(cascade.policy, cascade.logits)
    whole = cascade.logits[-1].argmax(axis=1)
    return CalibrationSummary(
        samples=len(cascade.labels),
        held_out=cascade.held_out,
        labels="model" if labels == "model" else "data",
        max_drop=max_drop,
        reference_accuracy=None if cascade.reference is None else float(cascade.reference.mean()),
        full_accuracy=float((whole == cascade.labels).mean()),
        accuracy=float((answers.label == cascade.labels).mean()),
        mean_cost=float(cascade.costs[answers.exit].mean()) / analysis.whole_macs,
        exit_shares=tuple(map(float, answers.shares(len(cascade.segments)))),
        drift=drift_reference(cascade.policy, cascade.logits),
    )


def _provenance(sources: Sequence[Source]) -> Provenance:
    return Provenance(
        edgeexit=metadata.version("edgeexit"),
        sources=tuple(SourceEntry(name=source.name, sha256=source.sha256) for source in sources),
        tools={name: metadata.version(name) for name in ("numpy", "onnx", "onnxruntime")},
    )
