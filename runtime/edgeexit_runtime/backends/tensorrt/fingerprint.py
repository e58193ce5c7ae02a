"""What an engine was built from and for. It is used where all of it is still so, and built again elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.tensorrt.driver import Gpu
from edgeexit_runtime.backends.tensorrt.ranges import BatchRange

__all__ = ["Fingerprint", "fingerprint"]

WORDS = {
    "onnx_sha256": "graph",
    "tensorrt": "TensorRT",
    "cuda": "CUDA",
    "driver": "driver",
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "ranges": "batches",
    "workspace_mb": "workspace in MiB",
    "tensors": "tensors",
    "float32": "float32 arithmetic",
}

CHOSEN = ("ranges", "workspace_mb")


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of an engine."""

    onnx_sha256: str
    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str
    ranges: tuple[tuple[int, int], ...]
    workspace_mb: int | None
    tensors: tuple[str, ...]  # name, dtype and shape, in the manifest's order
    float32: str  # how float32 is computed

    def changes(self, now: Fingerprint, *, chosen: bool) -> list[str]:
        """What differs between this engine's fingerprint and the one wanted `now`, for people.

        Args:
            now: What is wanted.
            chosen: Whether batch ranges and workspace were asked for; else an engine's own will do.
        """
        return [
            f"{word}: was {_describe(getattr(self, field))}, is {_describe(getattr(now, field))}"
            for field, word in WORDS.items()
            if getattr(self, field) != getattr(now, field) and (chosen or field not in CHOSEN)
        ]


def fingerprint(
    data: bytes, entry: SegmentEntry, gpu: Gpu, tensorrt: str, ranges: Sequence[BatchRange], workspace_mb: int | None
) -> Fingerprint:
    """The fingerprint of the engine of a segment's graph on this device."""
    tensors = (*entry.inputs, *entry.policy_inputs, *entry.outputs)
    return Fingerprint(
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        tensorrt=tensorrt,
        cuda=gpu.cuda,
        driver=gpu.driver,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        ranges=tuple((first, last) for first, last in ranges),
        workspace_mb=workspace_mb,
        tensors=(*map(_signature, tensors), f"{entry.logits or 'no'} logits"),
        float32="ieee",
    )


def _signature(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"


def _describe(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(BatchRange(*item)) if isinstance(item, tuple) else str(item) for item in value)
    return "none" if value is None else str(value)
