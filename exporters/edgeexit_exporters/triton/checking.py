"""Merged tails are run before they are written: they give what the bundle says of its golden samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError
from edgeexit.payload import pack_all
from edgeexit.precision import TOLERANCES
from edgeexit.tails import boundary
from edgeexit_exporters.probe import session
from edgeexit_exporters.triton.merging import LOGITS

__all__ = ["check_tail", "golden_boundaries"]

Arrays = dict[str, NDArray[Any]]

_ROUNDING = {"fp32": TOLERANCES["fp32"], "fp16": TOLERANCES["fp16"], "uint8": TOLERANCES["int8"]}
"""How far a logit may be off because the payload was rounded."""


def golden_boundaries(bundle: Bundle) -> Iterator[Arrays]:
    """What crosses in front of each segment when the golden samples run to the end, (g, …) each, by name.

    Raises:
        ModelError: ONNX Runtime does not take a segment.
    """
    manifest = bundle.manifest
    known: Arrays = {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
    for k, entry in enumerate(manifest.segments):
        yield {spec.name: known[spec.name] for spec in boundary(manifest, k)}
        if not entry.outputs:
            continue
        feeds = {spec.name: known[spec.name] for spec in entry.inputs}
        constants = {spec.name: bundle.exits[spec.name] for spec in entry.policy_inputs}
        names = [spec.name for spec in entry.outputs]
        values = session(onnx.load_model_from_string(bundle.segment(k)), threads=1).run(names, feeds | constants)
        known |= zip(names, values, strict=True)


def check_tail(bundle: Bundle, k: int, model: onnx.ModelProto, arrays: Arrays, precision: str = "fp32") -> None:
    """Run a merged tail on what crosses in front of segment k, in the precision that it takes.

    Raises:
        ModelError: ONNX Runtime does not take it, or its logits are not those of the bundle.
    """
    (found,) = session(model, threads=1).run([LOGITS], pack_all(arrays, precision if k else "fp32"))
    segments = bundle.manifest.segments
    tolerance = max(_ROUNDING[precision], *(TOLERANCES[entry.precision] for entry in segments))
    for row, j in enumerate(range(k, len(segments))):
        golden = bundle.check[f"logits.{j}"]
        error = float(np.abs(found[:, row] - golden).max()) / max(1.0, float(np.abs(golden).max()))
        if not error <= tolerance:
            raise ModelError(
                f"the merged tail from segment {k} does not give exit {j}'s logits of the golden samples",
                got=f"a relative difference of {error:.2g}",
                expected=f"at most {tolerance:g}",
                remedy="see whether the bundle is right on this machine: edgeexit verify",
            )
