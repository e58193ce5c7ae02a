"""What do thresholds cost that were fitted with no label at all, at the same measured drop of accuracy?

Thresholds are fitted on the calibration split for a ladder of largest losses, once with labels and once with the
whole model's answers in their place, and measured with labels on the test split. Between the points of each
curve the mean cost is interpolated at equal drops. Writes `benchmarks/results/label_free.json`.

    python benchmarks/label_free.py --calibration DATA/calibration --test DATA/test resnet56=BUNDLE cascade=BUNDLE
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.cached import CachedLogits
from edgeexit.console import progress
from edgeexit.errors import UnreachableError
from edgeexit.policies import PLAIN
from edgeexit.thresholds import MaxDrop, fit_thresholds, measure
from edgeexit.tuning import fit_on, material
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import gather, open_for
from edgeexit_runtime.machine import describe_machine

LIMITS = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08, 0.1)
DROPS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03)


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--calibration", required=True, type=click.Path(exists=True))
@click.option("--test", required=True, type=click.Path(exists=True))
@click.option("--policy", default="max-probability", show_default=True)
@click.option("--method", default="risk", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "label_free.json")
def main(bundles: tuple[str, ...], calibration: str, test: str, policy: str, method: str, out: Path) -> None:
    """Fit both ways, measure, and write one JSON document."""
    results = {}
    for word in bundles:
        name, _, path = word.partition("=")
        results[name] = compare(path, calibration, test, policy, method)
        click.echo(f"{name}: {results[name]['label_free_costs_more']}")
    document = {"machine": describe_machine(), "policy": policy, "thresholds": method, "bundles": results}
    out.write_text(json.dumps(document, indent=1) + "\n")


def compare(path: str, calibration: str, test: str, policy: str, method: str) -> dict[str, Any]:
    """Both curves of a bundle, and what label-free thresholds cost more at equal measured drops."""
    cascade = Cascade.open(path)
    costs = np.array([entry.cost for entry in cascade.manifest.exits])
    cached = []
    for data in (calibration, test):
        dataset = open_for(cascade.manifest, data, "data")
        with progress(f"running all exits on {Path(data).name}", len(dataset)) as advance:
            cached.append(gather(cascade, dataset, batch=64, labels="data", advance=advance))
    fitting, measuring = cached
    curves = {
        "data": curve(fitting, measuring, costs, policy, method),
        "model": curve(fitting.labelled_by_the_model(), measuring, costs, policy, method),
    }
    more: dict[str, float | None] = {}
    for drop in DROPS:
        with_labels, without = (cost_at(drop, curves[labels]) for labels in ("data", "model"))
        more[f"{drop:g}"] = None if with_labels is None or without is None else without - with_labels
    return {"curves": curves, "label_free_costs_more": more}


def curve(
    fitting: CachedLogits, measuring: CachedLogits, costs: np.ndarray, policy: str, method: str
) -> list[dict[str, float]]:
    """Measured drop and mean cost for each limit that can be kept."""
    fitted, trial = fit_on(policy, fitting.logits, fitting.labels, costs, PLAIN)
    unseen = material(fitted, measuring.logits, measuring.labels, costs)
    points = []
    for limit in LIMITS:
        try:
            outcome = measure(unseen, fit_thresholds(method, trial, MaxDrop(limit)))
        except UnreachableError:
            continue
        points.append({"limit": limit, "drop": outcome.loss, "cost": outcome.mean_cost})
    return points


def cost_at(drop: float, points: list[dict[str, float]]) -> float | None:
    """The least mean cost of the curve, between its points, whose drop is at most this; None outside of the curve."""
    drops, costs = (np.array([point[key] for point in points]) for key in ("drop", "cost"))
    order = np.argsort(drops)
    if not drops.min() <= drop <= drops.max():
        return None
    return float(np.interp(drop, drops[order], np.minimum.accumulate(costs[order])))


if __name__ == "__main__":
    main()
