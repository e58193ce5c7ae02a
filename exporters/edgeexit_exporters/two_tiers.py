"""A bundle on two tiers: a device's process, and a server's that goes on where it stops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from edgeexit.bundle import Bundle
from edgeexit.console import say
from edgeexit.errors import BackendError
from edgeexit.manifest import Manifest
from edgeexit_exporters.device_side import run_command, serving

__all__ = ["TierShare", "TwoTiers", "compared", "cut_of", "run_two_tiers"]

DEVICE, SERVER = "device", "server"
PATIENT_MS = 10_000.0
"""The deadline: this shows who answers, and a busy machine is no reason to degrade."""

Lines = list[dict[str, Any]]

_answer = itemgetter("label", "exit")


@dataclass(frozen=True)
class TierShare:
    """What a tier resolved: its segments, and a number of samples and their share of all."""

    tier: str
    segments: tuple[int, ...]
    samples: int
    share: float


@dataclass(frozen=True)
class TwoTiers:
    """What became of the samples.

    Attributes:
        cut: The server's first segment.
        samples: How many there were: those that the tiers resolved, and the degraded ones.
        tiers: The device and the server.
        degraded: How many the device answered itself because no answer came.
        reasons: Why, each reason once.
        differing: How many have another label or exit than in one process, degraded ones left out.
    """

    cut: int
    samples: int
    tiers: tuple[TierShare, ...]
    degraded: int
    reasons: tuple[str, ...]
    differing: int


def run_two_tiers(bundle: Path, data: Path) -> TwoTiers:
    """Classify `data` with a device's process and a server's, and in one process beside.

    Raises:
        MissingPartError: The runtime's packages for tiers are not installed.
        BackendError: A process failed or took too long, or a sample was not answered once.
        BundleError: The bundle cannot be read.
    """
    manifest = Bundle.open(bundle).manifest
    cut = cut_of(manifest)
    say(f"cutting in front of segment {cut}: a device process, a server process, and gRPC between them")
    with serving(bundle, "--from", cut, "--name", SERVER) as address:
        whole = _lines(run_command("run", bundle, data))
        url = f"grpc://{address()}"
        words = ("--upto", cut, "--offload", url, "--deadline-ms", PATIENT_MS, "--payload-precision", "fp32")
        split = _lines(run_command("run", bundle, data, *words))
    return compared(cut, len(manifest.segments), whole, split)


def cut_of(manifest: Manifest) -> int:
    """Behind the first exit that anybody takes, so that both tiers have something to do."""
    segments = len(manifest.segments)
    shares = manifest.calibration.exit_shares
    return next((k for k in range(1, segments) if any(shares[:k])), segments - 1)


def _lines(printed: str) -> Lines:
    return sorted(map(json.loads, printed.splitlines()), key=itemgetter("input"))


def compared(cut: int, segments: int, whole: Lines, split: Lines) -> TwoTiers:
    """Hold the answers of two tiers against those of one process.

    Args:
        cut: The server's first segment.
        segments: How many the bundle has.
        whole: The lines of `edgeexit run` in one process, by input.
        split: Those of the device, by input.

    Raises:
        BackendError: A sample was not answered, or more than once, or the server answered none that it was asked.
    """
    if [line["input"] for line in split] != [line["input"] for line in whole]:
        raise BackendError("not every sample was answered once", got=len(split), expected=len(whole))
    pairs = [(line, alone) for line, alone in zip(split, whole, strict=True) if not line["degraded"]]
    upstream = sum(line["tier"] == SERVER for line, _ in pairs)
    reasons = tuple(sorted({line["reason"] for line in split if line["degraded"]}))
    if reasons and not upstream:
        raise BackendError("the device got no answer from the server", got=", ".join(reasons))
    ranges = ((DEVICE, range(cut), len(pairs) - upstream), (SERVER, range(cut, segments), upstream))
    return TwoTiers(
        cut=cut,
        samples=len(split),
        tiers=tuple(TierShare(tier, tuple(run), count, count / len(split)) for tier, run, count in ranges),
        degraded=len(split) - len(pairs),
        reasons=reasons,
        differing=sum(_answer(line) != _answer(alone) for line, alone in pairs),
    )
