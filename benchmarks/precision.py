"""What do float16 and 8-bit integers cost in accuracy, and bring in size and speed?

Takes bundles of one model in several precisions, measures each on test data, times their cascades and their
whole models in one interleaved run, and writes JSON.

    python benchmarks/precision.py fp32=R56 fp16=R56-FP16 int8=R56-INT8 --data DATA/test --model resnet56

Every time is the median over rounds, every ratio the median of the rounds' ratios against the first
bundle's whole model; a round runs all contenders one after another on the same samples.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.data import open_data
from edgeexit.precision import precision_of
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.evaluation import evaluate
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.whole import merged_whole

Contender = Callable[[Mapping[str, NDArray[Any]]], object]

SAMPLES = 256
SECONDS_EACH = 20.0
MOST_ROUNDS, LEAST_ROUNDS = 60, 5


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--data", required=True, help="Labelled test data that fit all the bundles.")
@click.option("--model", required=True, help="Under which name the results are kept.")
@click.option("--batch", "batches", default="1,8,64", show_default=True, help="Batch sizes.")
@click.option("--threads", default="1,2", show_default=True, help="Threads.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "precision.json")
def main(bundles: tuple[str, ...], data: str, model: str, batches: str, threads: str, out: Path) -> None:
    """Measure, time and write one JSON document; other models in it keep their results."""
    opened = {name: Bundle.open(path) for name, _, path in (pair.partition("=") for pair in bundles)}
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document["machine"] = describe_machine()
    document.setdefault("models", {})[model] = {
        "bundles": {name: measure(name, bundle, data) for name, bundle in opened.items()},
        "speed": [
            row
            for t in map(int, threads.split(","))
            for b in map(int, batches.split(","))
            for row in speed(opened, data, b, t)
        ],
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def measure(name: str, bundle: Bundle, data: str) -> dict[str, Any]:
    """Accuracy on the test data, and bytes."""
    print(f"{name}: accuracy", file=sys.stderr)
    manifest = bundle.manifest
    dataset = open_data(data, manifest.inputs, manifest.preprocessing, manifest.labels)
    result = evaluate(Cascade.open(bundle, threads=1), dataset, batch=64, advance=lambda _=1: None)
    boundaries = [spec for segment in manifest.segments for spec in segment.outputs]
    return {
        "precision": precision_of(manifest),
        "exits": len(manifest.exits),
        "policy": manifest.policy.name,
        "size_bytes": bundle.size_bytes,
        "segments_bytes": sum(segment.file.size_bytes for segment in manifest.segments),
        "boundary_bytes": sum(int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in boundaries),
        "calibration": {
            "reference_accuracy": manifest.calibration.reference_accuracy,
            "full_accuracy": manifest.calibration.full_accuracy,
            "accuracy": manifest.calibration.accuracy,
        },
        "samples": result.samples,
        "full_accuracy": result.full_accuracy,
        "accuracy": result.accuracy,
        "mean_cost": result.mean_cost,
    }


def speed(opened: Mapping[str, Bundle], data: str, batch: int, threads: int) -> list[dict[str, Any]]:
    """One row a bundle: milliseconds a batch, and ratios against the first bundle's whole model."""
    print(f"speed: batch {batch}, {threads} threads", file=sys.stderr)
    first = next(iter(opened.values())).manifest
    dataset = open_data(data, first.inputs, first.preprocessing, first.labels)
    order = np.random.default_rng(0).permutation(len(dataset))[: max(batch, SAMPLES // batch * batch)]
    feeds = list(dataset.batches(batch, order))
    contenders: dict[tuple[str, str], Contender] = {}
    for name, bundle in opened.items():
        whole = merged_whole(bundle, SessionSettings(threads=threads))
        if whole is None:
            raise SystemExit("the whole model is merged with onnx, which is not installed")
        contenders[name, "whole"] = whole
        contenders[name, "cascade"] = Cascade.open(bundle, threads=threads).run
    times = interleaved(contenders, feeds)
    base = times[next(iter(opened)), "whole"]
    return [
        {
            "batch": batch,
            "threads": threads,
            "bundle": name,
            "rounds": len(base),
            **{f"{what}_ms": 1e3 * float(np.median(times[name, what])) for what in ("whole", "cascade")},
            **{f"{what}_ratio": float(np.median(times[name, what] / base)) for what in ("whole", "cascade")},
            "cascade_over_whole": float(np.median(times[name, "cascade"] / times[name, "whole"])),
        }
        for name in opened
    ]


def interleaved(
    contenders: Mapping[tuple[str, str], Contender], feeds: list[dict[str, NDArray[Any]]]
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Seconds of each contender for the mean batch, (rounds,); a round goes through all batches."""
    for contender in contenders.values():
        contender(feeds[0])
    rounds: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    started = time.perf_counter()
    while len(rounds[next(iter(contenders))]) < MOST_ROUNDS:
        done = len(rounds[next(iter(contenders))])
        if done >= LEAST_ROUNDS and time.perf_counter() - started > SECONDS_EACH * len(contenders):
            break
        sums = dict.fromkeys(contenders, 0.0)
        for feed in feeds:
            for key, contender in contenders.items():
                start = time.perf_counter()
                contender(feed)
                sums[key] += time.perf_counter() - start
        for key, seconds in sums.items():
            rounds[key].append(seconds / len(feeds))
    return {key: np.array(values) for key, values in rounds.items()}


if __name__ == "__main__":
    main()
