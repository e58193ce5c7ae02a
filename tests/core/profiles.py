"""A small profile to test with."""

from __future__ import annotations

from typing import Any

from edgeexit.manifest import Manifest
from edgeexit.profiles import Machine, Profile, SegmentProfile, identity


def a_profile(manifest: Manifest, exits_ms: tuple[float, ...] | None = None, **changes: Any) -> Profile:
    """A profile of a bundle, measured at the batch sizes 1, 4 and 16."""
    names = [entry.name for entry in manifest.exits]
    values: dict[str, Any] = {
        "bundle": identity(manifest),
        "precision": "fp32",
        "backend": "onnxruntime",
        "threads": 2,
        "target": "raspberry-pi-5",
        "machine": Machine(
            cpu="Cortex-A76",
            cores=4,
            architecture="aarch64",
            system="Linux 6.6",
            python="3.11.2",
            packages={"numpy": "2.2.0"},
        ),
        "batches": (1, 4, 16),
        "segments": tuple(
            SegmentProfile(
                name=name,
                run_ms=(1.5, 5.0, 18.25),
                check_ms=(0.125, 0.25, 0.5) if k < len(names) - 1 else None,
                compact_ms=(0.01, 0.02, 0.05) if k < len(names) - 1 else (0.0, 0.0, 0.0),
                decide_ms=(0.02, 0.03, 0.04),
            )
            for k, name in enumerate(names)
        ),
        "exits_ms": exits_ms or tuple(1.5 * (k + 1) for k in range(len(names))),
        "energy_mj": None,
        "energy_note": "this device has no sensor",
    }
    return Profile(**{**values, **changes})
