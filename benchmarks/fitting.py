"""How long does it take to fit a policy, and how much memory?

Draws the logits of 100,000 samples at 6 exits for 10 classes, and for every policy, in a process of its own,
fits it, replays it and searches its thresholds for half of the budget, by its own text's method and by
EdgeExit's; then searches joint thresholds for 5,000 samples at 10 exits. Writes
`benchmarks/results/fitting.json`.

    python benchmarks/fitting.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.cached import CachedLogits
from edgeexit.policies import POLICIES, Setting
from edgeexit.thresholds import METHODS, Budget, fit_thresholds
from edgeexit.tuning import fit_as_stored, material
from edgeexit_runtime.machine import describe_machine

CLASSES = 10
SIZES = {"100,000 samples, 6 exits": (100_000, 6), "5,000 samples, 10 exits": (5_000, 10)}
LARGE, SMALL = SIZES
BUDGET = 0.5


def drawn(samples: int, exits: int) -> CachedLogits:
    """Logits of samples of differing difficulty; each exit knows more than the one before."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, samples)
    ease = random.uniform(0.2, 2.0, (samples, 1)).astype(np.float32)
    truth = np.eye(CLASSES, dtype=np.float32)[labels] * ease
    shared = random.normal(size=(samples, CLASSES)).astype(np.float32)
    logits = (
        truth * np.float32(skill) + (shared + random.normal(size=truth.shape).astype(np.float32)) * np.float32(0.7)
        for skill in np.linspace(1.5, 4.0, exits)
    )
    return CachedLogits(tuple(logits), labels)


def one(policy: str, method: str, size: str) -> dict[str, Any]:
    """Fit, replay and search once; seconds of each, and the peak of this process."""
    samples, exits = SIZES[size]
    data, costs = drawn(samples, exits), np.linspace(0, 1, exits + 1)[1:]
    data.check()
    marks = [time.perf_counter()]
    fitted = fit_as_stored(policy, data.logits, data.labels, Setting(costs, BUDGET, 0))
    marks.append(time.perf_counter())
    trial = material(fitted, data.logits, data.labels, costs)
    marks.append(time.perf_counter())
    fit_thresholds(method, trial, Budget(BUDGET))
    marks.append(time.perf_counter())
    fit_s, replay_s, thresholds_s = np.diff(marks).round(2).tolist()
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    return {"fit_s": fit_s, "replay_s": replay_s, "thresholds_s": thresholds_s, "peak_mb": peak_mb}


@click.command()
@click.option("--only", nargs=3, metavar="POLICY METHOD SIZE", hidden=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "fitting.json")
def main(only: tuple[str, str, str] | None, out: Path) -> None:
    """Fit everything, write one JSON document, and print a table in Markdown."""
    if only:
        print(json.dumps(one(*only)))
        return
    jobs = [(policy, row.thresholds, LARGE) for policy, row in POLICIES.items()]
    jobs += [(policy, "joint", LARGE) for policy, row in POLICIES.items() if row.thresholds != "joint"]
    jobs += [("max-probability", method, LARGE) for method in METHODS]
    jobs += [("max-probability", "joint", SMALL)]
    jobs = list(dict.fromkeys(jobs))
    rows = []
    print(
        "| size | policy | thresholds | fit, s | replay, s | thresholds, s | peak, MB |\n|---|---|---|---|---|---|---|"
    )
    for policy, method, size in jobs:
        command = [sys.executable, __file__, "--only", policy, method, size]
        rows.append(
            {"size": size, "policy": policy, "thresholds": method} | json.loads(subprocess.check_output(command))
        )
        print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
