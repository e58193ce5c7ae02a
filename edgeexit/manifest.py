"""The manifest: what a bundle holds, as frozen structures that refuse unknown keys.

The bytes on disk are described in `docs/bundle-format.md`. This module knows the content
(`Manifest` ⇄ JSON document); `edgeexit.bundle` knows files and hashes.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import msgspec
import numpy as np

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "LAYOUT_HINT",
    "CalibrationSummary",
    "DriftReference",
    "ExitEntry",
    "FileEntry",
    "Manifest",
    "PayloadEntry",
    "PolicyEntry",
    "Preprocessing",
    "Provenance",
    "SegmentEntry",
    "SourceEntry",
    "TensorSpec",
]

FORMAT_NAME = "edgeexit-bundle"
FORMAT_VERSION = 4

LAYOUT_HINT = "layout_hint."
"""Nodes whose names begin with this change no value: they keep a backend's data layout across a cut."""


class _Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all entries: immutable, keyword-only, unknown keys refused."""


class TensorSpec(_Frozen, frozen=True, kw_only=True):
    """A named tensor. `shape` leaves out the batch axis, which is always axis 0.

    For policy tensors (`SegmentEntry.policy_inputs`) `shape` is the whole shape.
    """

    name: str
    dtype: str  # NumPy's name: float32, float16, uint8, int64, bool, …
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample; for policy tensors, of the whole tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class FileEntry(_Frozen, frozen=True, kw_only=True):
    """A file of the bundle. `path` is relative with forward slashes."""

    path: str
    sha256: str  # 64 hexadecimal digits, lower case
    size_bytes: int


class PayloadEntry(_Frozen, frozen=True, kw_only=True):
    """What handing samples on at a boundary takes in one precision, measured on calibration samples that get there.

    Bytes are of one sample's boundary tensors; the policy's state travels besides. `compressed_bytes` is the mean
    behind zlib's level 1, a sample at a time. `changed` is the share of samples that got another label or exit
    than they would have without rounding, 0 for "fp32".
    """

    precision: Literal["fp32", "fp16", "uint8"]
    size_bytes: int
    compressed_bytes: int
    changed: float


class SegmentEntry(_Frozen, frozen=True, kw_only=True):
    """One segment: an ONNX graph from boundary k to boundary k+1 and exit k's logits.

    `inputs` are taken from the tensors known so far (the model's inputs and the outputs of
    earlier segments), by name. `outputs` are those that a later segment uses. `policy_inputs`
    are tensors of `exits.safetensors` with the same names, bound once. `logits` is the name of
    the output of shape (batch, classes), float32. `features` is the tensor inside the graph, float32
    of shape (D,), from which a fitted head computes its logits; it is no output of the graph. `precision`
    is that of the backbone's layers; heads are float32. Counts are for one sample, backbone and head apart;
    `macs` and `params` leave the head out. `payloads` are of the boundary in front of the segment; None
    for the first segment, and where they were not measured or the policy has changed since.
    """

    file: FileEntry
    inputs: tuple[TensorSpec, ...]
    policy_inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    logits: str
    features: TensorSpec | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    macs: int
    params: int
    head_macs: int
    head_params: int
    payloads: tuple[PayloadEntry, ...] | None = None


class ExitEntry(_Frozen, frozen=True, kw_only=True):
    """One exit, at the end of the segment with the same index.

    `threshold` is in the units of the criterion; a sample leaves when its score is ≥ it.
    None means that nobody leaves here. The last exit takes everybody and has None.
    `cost` is everything spent until this exit answers, heads included, as a fraction of the
    whole model's MACs; `cost_macs` is the same in MACs.
    """

    name: str
    head: Literal["class-means", "gaussian", "trained", "model"]
    criterion: str
    threshold: float | None
    cost: float
    cost_macs: int


class PolicyEntry(_Frozen, frozen=True, kw_only=True):
    """The policy by its registered name, and the names of its tensors in `exits.safetensors`."""

    name: str
    tensors: tuple[str, ...] = ()


class Preprocessing(_Frozen, frozen=True, kw_only=True):
    """How raw samples become the first segment's input. Arithmetic is in the graph already.

    `kind` "image": pictures are decoded to `mode` (L or RGB) and given as uint8 arrays
    (height, width, channels); `size` is (height, width). `resize` "exact" refuses pictures of
    another size, "crop" scales the shorter side and crops the centre. `kind` "array": arrays
    are given as they are. `mean` and `std` are recorded for people; the graph applies them.
    """

    kind: Literal["image", "array"]
    mode: Literal["L", "RGB"] | None = None
    size: tuple[int, int] | None = None
    resize: Literal["exact", "crop"] = "exact"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class DriftReference(_Frozen, frozen=True, kw_only=True):
    """Where the samples of the calibration split left, and with which scores: what drift is measured against.

    For each exit `edges` are rising scores that part the scores of those who left there into bins, one
    more than edges: bin b holds scores from edge b − 1, itself included, up to edge b. `counts` are the
    samples in each bin; over all exits they are all samples.
    """

    agreeing: int  # samples with the whole model's answer
    edges: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]


class CalibrationSummary(_Frozen, frozen=True, kw_only=True):
    """What was asked of the thresholds, and measured on the calibration split when they were chosen.

    Asked was either `max_drop`, with or without `delta`, or `budget` in `unit`. Format version 1 knows
    `max_drop` alone. Where the export changed the model's precision, `reference_accuracy` is the
    accuracy of the model as it came, and `max_drop` counts from there; otherwise it is None and
    `max_drop` counts from `full_accuracy`, the whole model's in the bundle.
    """

    samples: int
    held_out: bool  # True: held out of the fitting data because no split was given
    labels: Literal["data", "model"]
    max_drop: float | None = None  # largest loss of accuracy, a fraction of all samples
    delta: float | None = None  # the chance, over calibration splits, that the loss is larger
    budget: float | None = None  # largest mean cost
    unit: Literal["macs", "ms"] | None = None  # a fraction of the whole model's MACs, or milliseconds
    method: str | None = None  # how the thresholds were found
    reference_accuracy: float | None = None
    full_accuracy: float
    accuracy: float
    mean_cost: float
    exit_shares: tuple[float, ...]
    drift: DriftReference | None = None


class SourceEntry(_Frozen, frozen=True, kw_only=True):
    """A source model: the file's name (never its folder) or `module:function`."""

    name: str
    sha256: str | None = None


class Provenance(_Frozen, frozen=True, kw_only=True):
    """Where the bundle came from. No paths, host or user names, so that equal exports are equal."""

    edgeexit: str
    sources: tuple[SourceEntry, ...]
    tools: dict[str, str] = {}


class Manifest(_Frozen, frozen=True, kw_only=True):
    """Everything about a bundle that is not a tensor or a graph.

    `macs` and `params` are the whole model's, heads left out: the last exit's own path.
    `statistics_file` is there where heads can be updated on the device.
    """

    format: str
    version: int
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    segments: tuple[SegmentEntry, ...]
    exits: tuple[ExitEntry, ...]
    policy: PolicyEntry
    macs: int
    params: int
    calibration: CalibrationSummary
    provenance: Provenance
    exits_file: FileEntry
    check_file: FileEntry
    statistics_file: FileEntry | None = None

    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the bundle other than the manifest itself."""
        statistics = () if self.statistics_file is None else (self.statistics_file,)
        return (*(segment.file for segment in self.segments), self.exits_file, self.check_file, *statistics)
