"""Small valid bundles whose segments are not graphs but any bytes, and ways to falsify them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import CHECK_FILE, EXITS_FILE, Bundle, file_entry, segment_path, write_bundle
from edgeexit.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    CalibrationSummary,
    ExitEntry,
    Manifest,
    PolicyEntry,
    Preprocessing,
    Provenance,
    SegmentEntry,
    SourceEntry,
    TensorSpec,
)
from edgeexit.tensors import save_tensors

LABELS = ("cat", "dog", "été")
INPUT = TensorSpec(name="x", dtype="float32", shape=(4,))
TEMPERATURES = "policy.temperatures"

Tensors = dict[str, NDArray[Any]]
Document = dict[str, Any]


def exits_tensors(segments: int = 2) -> Tensors:
    """What exits.safetensors holds: class means of every exit but the last, and the temperatures."""
    means = {f"exit.{k}.means": np.arange(12, dtype=np.float32).reshape(3, 4) + k for k in range(segments - 1)}
    return {**means, TEMPERATURES: np.ones(segments, dtype=np.float32)}


def check_tensors(segments: int = 2, samples: int = 2) -> Tensors:
    """What check.safetensors holds: golden samples that all leave at exit 0 with label 1."""
    logits = {f"logits.{k}": np.tile(np.array([0, k + 1, 0], np.float32), (samples, 1)) for k in range(segments)}
    return {
        "input.x": np.arange(4 * samples, dtype=np.float32).reshape(samples, 4),
        **logits,
        "labels": np.ones(samples, dtype=np.int64),
        "exits": np.zeros(samples, dtype=np.int64),
        "probabilities": np.full(samples, 0.75, dtype=np.float32),
    }


def bundle_parts(
    segments: int = 2, *, graph: bytes = b"graph", exits: Tensors | None = None, check: Tensors | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and contents of a valid bundle; `exits` and `check` replace the usual tensors."""
    contents = {segment_path(k): graph + b" %d" % k for k in range(segments)}
    contents[EXITS_FILE] = save_tensors(exits_tensors(segments) if exits is None else exits)
    contents[CHECK_FILE] = save_tensors(check_tensors(segments) if check is None else check)
    return _manifest(segments, contents), contents


def write_small(path: Path, segments: int = 2, **parts: Any) -> Path:
    """Write such a bundle, and return its path."""
    write_bundle(path, *bundle_parts(segments, **parts))
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below a folder, by relative path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def signed(rest: bytes) -> bytes:
    """manifest.json with this content behind a digest that matches it."""
    return b'{"sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest


def rewrite_manifest(folder: Path, alter: Callable[[Document], object]) -> None:
    """Alter a bundle folder's manifest as JSON, and give it a digest that matches again."""
    document = json.loads((folder / "manifest.json").read_bytes())
    del document["sha256"]
    alter(document)
    (folder / "manifest.json").write_bytes(signed(json.dumps(document).removeprefix("{").encode()))


def rewrite_file(folder: Path, path: str, data: bytes) -> None:
    """Replace a file of a bundle folder, with its hash and size in the manifest."""

    def alter(document: Document) -> None:
        files = [segment["file"] for segment in document["segments"]] + [document["exits_file"], document["check_file"]]
        (entry,) = (entry for entry in files if entry["path"] == path)
        entry.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    (folder / path).write_bytes(data)
    rewrite_manifest(folder, alter)


@contextmanager
def flipped(path: Path, position: int, change: int) -> Iterator[None]:
    """A file in which the bits `change` of one byte are flipped for a while."""
    with path.open("r+b", buffering=0) as file:
        original = os.pread(file.fileno(), 1, position)
        os.pwrite(file.fileno(), bytes([original[0] ^ change]), position)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), original, position)


def opens(path: Path) -> bool:
    """Open a bundle and all that is lazy in it."""
    bundle = Bundle.open(path)
    return bool(bundle.check and bundle.policy())


def _manifest(segments: int, contents: dict[str, bytes]) -> Manifest:
    last = segments - 1
    boundary = [INPUT, *(TensorSpec(name=f"h{k}", dtype="float32", shape=(2, k + 1)) for k in range(last))]
    return Manifest(
        format=FORMAT_NAME,
        version=FORMAT_VERSION,
        labels=LABELS,
        inputs=(INPUT,),
        preprocessing=Preprocessing(kind="array"),
        segments=tuple(
            SegmentEntry(
                file=file_entry(segment_path(k), contents[segment_path(k)]),
                inputs=(boundary[k],),
                policy_inputs=() if k == last else (_means(k),),
                outputs=() if k == last else (boundary[k + 1],),
                logits=f"logits.{k}",
                macs=100,
                params=10,
                head_macs=0 if k == last else 5,
                head_params=0,
            )
            for k in range(segments)
        ),
        exits=tuple(
            ExitEntry(
                name="last" if k == last else f"exit{k}",
                head="model" if k == last else "class-means",
                criterion="max-probability",
                threshold=None if k == last else 0.75,
                cost=(k + 1) / segments,
                cost_macs=100 * (k + 1) + 5 * min(k + 1, last),
            )
            for k in range(segments)
        ),
        policy=PolicyEntry(name="max-probability", tensors=(TEMPERATURES,)),
        macs=100 * segments,
        params=10 * segments,
        calibration=CalibrationSummary(
            samples=8,
            held_out=True,
            labels="data",
            max_drop=0.01,
            full_accuracy=0.875,
            accuracy=0.875,
            mean_cost=0.5,
            exit_shares=(1.0,) + (0.0,) * last,
        ),
        provenance=Provenance(edgeexit="0", sources=(SourceEntry(name="m.onnx"),), tools={"onnx": "1", "numpy": "2"}),
        exits_file=file_entry(EXITS_FILE, contents[EXITS_FILE]),
        check_file=file_entry(CHECK_FILE, contents[CHECK_FILE]),
    )


def _means(index: int) -> TensorSpec:
    return TensorSpec(name=f"exit.{index}.means", dtype="float32", shape=(3, 4))
