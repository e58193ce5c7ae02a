"""Which thresholds make most of a budget?

Draws calibration samples at random from a pool, tunes for several budgets by each method, and measures on the rest
of the pool. Adds to `benchmarks/results/budgets.json`.

    python benchmarks/budgets.py resnet56-gaussian=BUNDLE --data DATA/test
    python benchmarks/budgets.py resnet56-gaussian --logits FILE

DATA are samples that neither the model nor its exits were fitted on; FILE is as `benchmarks/guarantees.py` keeps it.
A gain is what a method has right beyond the joint search, on the same draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from guarantees import cached
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.console import progress
from edgeexit.policies import AUTO
from edgeexit.replay import replay
from edgeexit.thresholds import Budget
from edgeexit.tuning import tune_all
from edgeexit_runtime.machine import describe_machine

METHODS = ("joint", "risk")
BUDGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
SAMPLES = (300, 1000, 2500)


@click.command()
@click.argument("name")
@click.option("--data", type=click.Path(exists=True), help="With NAME=BUNDLE: the pool.")
@click.option("--logits", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Instead of a bundle.")
@click.option("--draws", default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "budgets.json")
def main(name: str, data: str | None, logits: Path | None, draws: int, out: Path) -> None:
    """Draw, tune, measure, write one JSON document, and print a table in Markdown."""
    name, _, bundle = name.partition("=")
    pool, costs = cached(bundle, data, logits)
    sizes = [size for size in SAMPLES if size <= pool.samples // 2]
    rows: list[dict[str, Any]] = []
    with progress("tuning", len(sizes) * len(BUDGETS) * draws) as advance:
        for size in sizes:
            for budget in BUDGETS:
                found = []
                for draw in range(draws):
                    found.append(measured(pool, costs, budget, size, draw))
                    advance(1)
                rows += summary(found, budget, size)
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document["machine"] = describe_machine()
    document.setdefault("pools", {})[name] = {
        "pool": pool.samples,
        "draws": draws,
        "exits": costs.tolist(),
        "full_accuracy": float((pool.logits[-1].argmax(axis=1) == pool.labels).mean()),
        "rows": rows,
    }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(name, rows))


def measured(
    pool: CachedLogits, costs: NDArray[np.float64], budget: float, size: int, draw: int
) -> list[tuple[float, float]]:
    """Accuracy and mean cost on the rest of the pool, by method."""
    order = np.random.default_rng(draw).permutation(pool.samples)
    seen, rest = pool.rows(order[:size]), pool.rows(order[size:])
    found = []
    for method in METHODS:
        tuned = tune_all(AUTO, seen.logits, seen.labels, costs, Budget(budget), method=method)[0]
        answers = replay(tuned.policy, rest.logits)
        found.append((float((answers.label == rest.labels).mean()), float(costs[answers.exit].mean())))
    return found


def summary(draws: Sequence[list[tuple[float, float]]], budget: float, size: int) -> list[dict[str, Any]]:
    """A row for each method: means over the draws."""
    accuracy, cost = np.asarray(draws).transpose(2, 1, 0)  # (methods, draws) each
    gain = accuracy - accuracy[0]
    return [
        {
            "samples": size,
            "budget": budget,
            "method": method,
            "accuracy": float(accuracy[i].mean()),
            "gain": float(gain[i].mean()),
            "gain_error": float(gain[i].std(ddof=1) / len(draws) ** 0.5) if len(draws) > 1 else None,
            "cost": float(cost[i].mean()),
            "over_budget": float((cost[i] > budget).mean()),
        }
        for i, method in enumerate(METHODS)
    ]


def markdown(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """A table."""
    lines = [
        f"## {name}",
        "",
        "| calibration samples | budget | thresholds | accuracy | gain, points | mean cost |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['samples']} | {row['budget']} | {row['method']} | {100 * row['accuracy']:.2f} % | "
            f"{100 * row['gain']:+.2f} ± {100 * (row['gain_error'] or 0):.2f} | {row['cost']:.3f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
