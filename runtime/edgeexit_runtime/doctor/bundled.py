"""A bundle on this machine: does it open, does it fit into memory, and is its precision the target's?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeexit.bundle import Bundle
from edgeexit.console import human_bytes
from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest
from edgeexit.precision import precision_of
from edgeexit.targets import Target
from edgeexit_runtime.doctor.finding import Finding, ok, problem, warning
from edgeexit_runtime.doctor.host import Host
from edgeexit_runtime.doctor.memory import available_bytes

__all__ = ["check_bundle", "needed_bytes"]

PROCESS_BYTES = 56 << 20
"""Python, NumPy and ONNX Runtime, before a graph is opened."""

WEIGHTS_TIMES = 2
"""What a graph takes, at most, while it is opened: its bytes and what ONNX Runtime makes of them."""


def check_bundle(host: Host, target: Target | None, path: str | Path) -> Iterator[Finding]:
    """Everything about the bundle."""
    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        yield problem("bundle", str(error).replace("\n", ";"), "a whole bundle", error.remedy or "copy it again")
        return
    manifest = bundle.manifest
    yield ok("bundle", f"{len(manifest.segments)} segments, {human_bytes(bundle.size_bytes)}, every byte as hashed")
    needed, left = needed_bytes(manifest), available_bytes(host)
    if left is not None:
        found, expected = f"{human_bytes(left)} free", f"about {human_bytes(needed)} for batches of 1"
        fits = left >= needed
        remedy = "end other programs, or export a smaller model"
        yield ok("memory for it", found, expected) if fits else problem("memory for it", found, expected, remedy)
    yield from _precision(manifest, target)


def needed_bytes(manifest: Manifest) -> int:
    """What a process takes, roughly, to open the bundle and to run single samples."""
    graphs = sum(entry.file.size_bytes for entry in manifest.segments)
    boundaries = sum(spec.size_bytes for entry in manifest.segments for spec in (*entry.inputs, *entry.outputs))
    return PROCESS_BYTES + WEIGHTS_TIMES * graphs + boundaries


def _precision(manifest: Manifest, target: Target | None) -> Iterator[Finding]:
    found = precision_of(manifest)
    if target is None:
        yield ok("precision", found)
    elif found == target.precision:
        yield ok("precision", found, target.precision)
    else:
        source = target.settings.precision.source
        remedy = f"edgeexit export … --precision {target.precision}"
        yield warning("precision", found, f"{target.precision} ({source})", remedy)
