"""The precision of a bundle's segments, and how far results may differ between devices because of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from edgeexit.manifest import Manifest

__all__ = ["TOLERANCES", "precision_of", "products_saturate", "tolerance"]

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""How far a logit may be off, as a share of the exit's largest, and a score, where devices are both right.

Where a value lies between two steps of its rounding, devices that add in another order round it to
different steps. Measured on ResNet-20 with and without ONNX Runtime's graph optimisations, that is in
integers and in floating point: fp16 1.5e-4, int8 1.3e-2 of the largest logit. The tolerances leave room
for deeper networks. The same integers on emulated Cortex-A72, Cortex-A76 and Haswell gave equal logits; a
processor whose 8-bit products saturate is off by 0.2 to 1.7, loses accuracy, and is meant to fail.
"""


def precision_of(manifest: Manifest) -> str:
    """The precision of the segments: one word where all have the same, else one a segment, with commas."""
    each = [segment.precision for segment in manifest.segments]
    return each[0] if len(set(each)) == 1 else ",".join(each)


def tolerance(manifest: Manifest) -> float:
    """The largest of the segments' tolerances."""
    return max(TOLERANCES[segment.precision] for segment in manifest.segments)


@cache
def products_saturate(cpuinfo: Path = Path("/proc/cpuinfo"), architecture: str | None = None) -> bool:
    """Whether sums of 8-bit products may saturate: on x86-64 without VNNI, and where it cannot be told.

    ONNX Runtime has a slower way to compute them exactly there. Elsewhere it would only be slower: twice,
    on a processor with VNNI.
    """
    if architecture is None:
        import platform

        architecture = platform.machine()
    if architecture.lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)
