"""What a manifest must say beyond its types: names that resolve, counts that fit, sizes that are sane."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

from edgeexit.bundle.layout import (
    CHECK_FILE,
    EXITS_FILE,
    MANIFEST_FILE,
    MAX_FILE_BYTES,
    STATISTICS_FILE,
    segment_path,
)
from edgeexit.errors import BundleError
from edgeexit.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    CalibrationSummary,
    DriftReference,
    ExitEntry,
    Manifest,
    Preprocessing,
    SegmentEntry,
    TensorSpec,
)
from edgeexit.payload import PRECISIONS, packed_bytes
from edgeexit.tails import boundary
from edgeexit.tensors import DTYPES, MAX_RANK

__all__ = ["MAX_TENSOR_BYTES", "check_manifest", "policy_tensor_specs"]

MAX_TENSOR_BYTES = (1 << 31) - 1  # of one sample's tensor, or of a policy tensor
_MAX_COUNT = (1 << 63) - 1
_CHANNELS = {"L": 1, "RGB": 3}
_ITEM_BYTES = {dtype.name: dtype.itemsize for dtype in DTYPES.values()}


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that no cascade could run by.

    Raises:
        BundleError: The message names the entry.
    """
    if manifest.format != FORMAT_NAME or not 1 <= manifest.version <= FORMAT_VERSION:
        expected = f"{FORMAT_NAME} 1 to {FORMAT_VERSION}"
        _refuse("the format is not ours", f"{manifest.format!r} {manifest.version}", expected)
    if len(manifest.labels) < 2:
        _refuse("a classifier has at least two labels", f"{len(manifest.labels)} labels")
    if not manifest.segments:
        _refuse("there is no segment", "0 segments")
    _check_files(manifest)
    _check_inputs(manifest)
    _check_graphs(manifest)
    _check_counts(manifest)
    _check_payloads(manifest)
    _check_exits(manifest.exits, len(manifest.segments))
    _check_records(manifest)


def policy_tensor_specs(manifest: Manifest) -> dict[str, TensorSpec]:
    """Policy inputs of all segments by name.

    Raises:
        BundleError: Two segments disagree about one.
    """
    specs: dict[str, TensorSpec] = {}
    for index, segment in enumerate(manifest.segments):
        for spec in segment.policy_inputs:
            if specs.setdefault(spec.name, spec) != spec:
                _refuse(f"segment {index} declares policy input {spec.name!r} unlike an earlier one", spec)
    return specs


def _check_files(manifest: Manifest) -> None:
    expected = [*(segment_path(index) for index in range(len(manifest.segments))), EXITS_FILE, CHECK_FILE]
    if manifest.statistics_file is not None:
        expected.append(STATISTICS_FILE)
    for entry, path in zip(manifest.files(), expected, strict=True):
        if entry.path != path:
            _refuse("a file is not where the format puts it", repr(entry.path), path)
        if not 0 < entry.size_bytes <= MAX_FILE_BYTES:
            _refuse(f"the size of {path} is unusable", entry.size_bytes, f"1 to {MAX_FILE_BYTES} bytes")


def _check_inputs(manifest: Manifest) -> None:
    if not manifest.inputs:
        _refuse("the model has no inputs")
    _check_specs("the model", manifest.inputs)
    preprocessing = manifest.preprocessing
    if preprocessing.kind == "image":
        expected = _picture_shape(preprocessing)
        if [(spec.dtype, spec.shape) for spec in manifest.inputs] != [("uint8", expected)]:
            got = ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in manifest.inputs)
            _refuse("the model's input does not fit the preprocessing", got, f"uint8 {list(expected)}")
    for field, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if values is not None and not all(map(math.isfinite, values)):
            _refuse(f"preprocessing.{field} is not finite", values)


def _picture_shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    if preprocessing.mode is None or preprocessing.size is None:
        _refuse("preprocessing of images needs mode and size")
    height, width = preprocessing.size
    return height, width, _CHANNELS[preprocessing.mode]


def _check_graphs(manifest: Manifest) -> None:
    """Every segment input is a tensor that is known when the segment runs, under one name."""
    known = {spec.name: spec for spec in manifest.inputs}
    policy_tensor_specs(manifest)
    for index, segment in enumerate(manifest.segments):
        where = f"segment {index}"
        _check_segment_names(where, segment)
        for spec in segment.inputs:
            if known.get(spec.name) != spec:
                _refuse(
                    f"{where} takes an input that no earlier segment gives",
                    _describe(spec),
                    _describe(known[spec.name]) if spec.name in known else f"one of {', '.join(known)}",
                )
        for spec in segment.outputs:
            if spec.name in known:
                _refuse(f"{where} gives a tensor that exists already", repr(spec.name))
            known[spec.name] = spec


def _check_segment_names(where: str, segment: SegmentEntry) -> None:
    if not segment.inputs:
        _refuse(f"{where} has no inputs")
    _check_specs(where, (*segment.inputs, *segment.policy_inputs, *segment.outputs))
    if not segment.logits:
        _refuse(f"{where} has no name for its logits")
    others = {spec.name for spec in (*segment.inputs, *segment.policy_inputs, *segment.outputs)}
    if segment.logits in others:
        _refuse(f"{where} uses the name of its logits for another tensor too", repr(segment.logits))
    if segment.features is not None:
        _check_specs(where, (segment.features,))
        if segment.features.name in {segment.logits, *others}:
            _refuse(f"{where} uses the name of its features for another tensor too", repr(segment.features.name))
        if segment.features.dtype != "float32" or len(segment.features.shape) != 1:
            _refuse(f"{where} has unusable features", _describe(segment.features), "float32 of one axis")


def _check_specs(where: str, specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        itemsize = _ITEM_BYTES.get(spec.dtype)
        if itemsize is None:
            _refuse(f"{where}: tensor {spec.name!r} has an unknown data type", repr(spec.dtype), ", ".join(_ITEM_BYTES))
        if len(spec.shape) > MAX_RANK or not all(axis > 0 for axis in spec.shape):
            _refuse(
                f"{where}: tensor {spec.name!r} has an unusable shape",
                list(spec.shape),
                f"at most {MAX_RANK} axes, each positive",
            )
        if math.prod(spec.shape) * itemsize > MAX_TENSOR_BYTES:
            _refuse(
                f"{where}: tensor {spec.name!r} is too large", list(spec.shape), f"at most {MAX_TENSOR_BYTES} bytes"
            )
    _check_names(f"{where}'s tensors", [spec.name for spec in specs])


def _check_names(what: str, names: Sequence[str]) -> None:
    if "" in names:
        _refuse(f"one of {what} has no name")
    if len(set(names)) != len(names):
        _refuse(f"{what} need names that differ", ", ".join(names))


def _check_counts(manifest: Manifest) -> None:
    counts = {"macs": manifest.macs, "params": manifest.params}
    for index, segment in enumerate(manifest.segments):
        for field in ("macs", "params", "head_macs", "head_params"):
            counts[f"segments[{index}].{field}"] = getattr(segment, field)
    for name, count in counts.items():
        if not 0 <= count <= _MAX_COUNT:
            _refuse(f"{name} is unusable", count, "a count")
    if manifest.macs == 0:
        _refuse("macs is unusable", 0, "a positive count")


def _check_payloads(manifest: Manifest) -> None:
    """What was measured in front of a segment is of the tensors that cross there."""
    for index, segment in enumerate(manifest.segments):
        where = f"segments[{index}].payloads"
        if segment.payloads is None:
            continue
        if index == 0:
            _refuse(f"{where}: nothing is handed on in front of the first segment", segment.payloads, "null")
        found = [entry.precision for entry in segment.payloads]
        if found[:1] != ["fp32"] or found != [name for name in PRECISIONS if name in found]:
            _refuse(f"{where} are not in order", ", ".join(found), ", ".join(PRECISIONS))
        crossing = boundary(manifest, index)
        for entry in segment.payloads:
            size_bytes = sum(packed_bytes(spec, entry.precision) for spec in crossing)
            if entry.size_bytes != size_bytes:
                _refuse(f"{where}: {entry.precision} does not take these bytes", entry.size_bytes, size_bytes)
            if not 0 < entry.compressed_bytes <= _MAX_COUNT:
                _refuse(f"{where}: compressed_bytes is unusable", entry.compressed_bytes, "a positive count")
        _check_fractions(f"{where}: shares of changed samples", (entry.changed for entry in segment.payloads))
        if segment.payloads[0].changed != 0:
            _refuse(f"{where}: fp32 rounds nothing", segment.payloads[0].changed, 0)


def _check_exits(exits: Sequence[ExitEntry], segments: int) -> None:
    if len(exits) != segments:
        _refuse("every segment ends in one exit", f"{len(exits)} exits and {segments} segments")
    _check_names("the exits", [entry.name for entry in exits])
    for entry in exits:
        if entry.threshold is not None and not math.isfinite(entry.threshold):
            _refuse(f"the threshold of exit {entry.name!r} is not finite", entry.threshold)
    if exits[-1].threshold is not None:
        _refuse("the last exit takes everybody, so it has no threshold", exits[-1].threshold, "null")
    _check_rising("cost", [entry.cost for entry in exits])
    _check_rising("cost_macs", [entry.cost_macs for entry in exits])


def _check_rising(what: str, values: Sequence[float]) -> None:
    if not all(0 < value <= _MAX_COUNT for value in values) or sorted(values) != list(values):
        _refuse(f"the exits' {what} must be positive and must not fall", list(values))


def _check_records(manifest: Manifest) -> None:
    record = manifest.calibration
    if record.samples < 0:
        _refuse("calibration.samples is negative", record.samples)
    if len(record.exit_shares) != len(manifest.exits):
        _refuse("calibration.exit_shares needs one share per exit", list(record.exit_shares))
    _check_fractions("calibration.exit_shares", record.exit_shares)
    reference = () if record.reference_accuracy is None else (record.reference_accuracy,)
    _check_fractions("calibration's accuracies", (record.accuracy, record.full_accuracy, *reference))
    if not (math.isfinite(record.mean_cost) and record.mean_cost >= 0):
        _refuse("calibration.mean_cost is unusable", record.mean_cost)
    _check_goal(record)
    if record.drift is not None:
        _check_drift(record.drift, record.samples, len(manifest.exits))
    for source in manifest.provenance.sources:
        if "/" in source.name or "\\" in source.name:
            _refuse("provenance names a source with its folder", repr(source.name), "the name alone")


def _check_goal(record: CalibrationSummary) -> None:
    """Either a loss, perhaps with its δ, or a budget with its unit."""
    if (record.max_drop is None) == (record.budget is None):
        _refuse("calibration needs max_drop or budget, and not both", (record.max_drop, record.budget))
    if (record.budget is None) != (record.unit is None):
        _refuse("calibration.budget and unit go together", (record.budget, record.unit))
    if record.delta is not None and (record.max_drop is None or not 0 < record.delta < 1):
        _refuse("calibration.delta is unusable", record.delta, "a number between 0 and 1, beside max_drop")
    for name, value in (("max_drop", record.max_drop), ("budget", record.budget)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            _refuse(f"calibration.{name} is unusable", value)
    if record.method == "":
        _refuse("calibration.method is empty")


def _check_drift(reference: DriftReference, samples: int, exits: int) -> None:
    """Bins for every exit, between rising edges, with all the samples in them."""
    lengths = [(len(edges) + 1, len(counts)) for edges, counts in zip(reference.edges, reference.counts, strict=False)]
    if len(reference.edges) != exits or len(reference.counts) != exits or any(a != b for a, b in lengths):
        _refuse("calibration.drift needs edges, and counts one longer, for every exit")
    for edges in reference.edges:
        if not all(map(math.isfinite, edges)) or sorted(set(edges)) != list(edges):
            _refuse("calibration.drift has edges that do not rise", list(edges))
    counts = [count for row in reference.counts for count in row]
    if min(counts) < 0 or sum(counts) != samples or not 0 <= reference.agreeing <= samples:
        _refuse("calibration.drift does not count the samples", f"{sum(counts)}, {reference.agreeing}", samples)


def _check_fractions(what: str, values: Iterable[float]) -> None:
    for value in values:
        if not 0 <= value <= 1:
            _refuse(f"{what} are outside 0 to 1", value)


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name!r} {spec.dtype} {list(spec.shape)}"


def _refuse(problem: str, got: object = None, expected: object = None) -> NoReturn:
    raise BundleError(f"{MANIFEST_FILE}: {problem}", got=got, expected=expected)
