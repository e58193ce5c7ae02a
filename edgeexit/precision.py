"""The precision of a bundle's segments, and how far results may differ between devices because of it."""

from __future__ import annotations

from edgeexit.manifest import Manifest

__all__ = ["TOLERANCES", "precision_of", "tolerance"]

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""How far a logit may be off, as a share of the exit's largest, and a score, where devices are both right.

Where a value lies between two steps of its rounding, devices that add in another order round it to
different steps. Measured on ResNet-20 and ResNet-56, ONNX Runtime with and without its graph
optimisations, which compute the same graph in integers and in floating point: fp16 2e-4, int8 1.3e-2.
The tolerances leave room for networks that are deeper. A processor whose 8-bit products saturate
differs by more, loses accuracy, and is meant to fail.
"""


def precision_of(manifest: Manifest) -> str:
    """The precision of the segments: one word where all have the same, else one a segment, with commas."""
    each = [segment.precision for segment in manifest.segments]
    return each[0] if len(set(each)) == 1 else ",".join(each)


def tolerance(manifest: Manifest) -> float:
    """The largest of the segments' tolerances."""
    return max(TOLERANCES[segment.precision] for segment in manifest.segments)
