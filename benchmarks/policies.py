"""Which policy is the most accurate within a budget?

Runs every exit of one or more bundles on every sample once, fits every policy with its thresholds on the
calibration split for budgets of 0.3 to 0.9 of the whole model's MACs, measures it on the test split, and
writes `benchmarks/results/policies.json`. All policies see identical logits.

    python benchmarks/policies.py --calibration DATA/calibration --test DATA/test \
        resnet56-gaussian=BUNDLE cascade=BUNDLE

Two bundles of two kinds, from the models and data that `benchmarks/cifar10.py` describes:

    edgeexit export MODELS/resnet56-cifar10.onnx --exits 9 --head gaussian …
    edgeexit export MODELS/resnet20-cifar10.onnx MODELS/resnet56-cifar10.onnx --exits auto --head gaussian …

For each bundle the document has, besides the rows of `edgeexit compare`: which mean costs exceed 1.01 × the
budget; by how much each of EdgeExit's own policies is ahead of the best of the others, once as their texts
describe them and once with the thresholds that EdgeExit searches, with the standard error of the difference
on the same samples; and whether the cascade, run in earnest, decides on every sample as the replay does.
The best of the others is chosen on the test split, which favours the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.cached import CachedLogits
from edgeexit.comparison import Row, summarise
from edgeexit.console import progress
from edgeexit.contenders import Contender, find_contenders
from edgeexit.data import Dataset
from edgeexit.policies import POLICIES, Policy
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget
from edgeexit.trials import Trial, steps, trials
from edgeexit.tuning import tune
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.evaluation import choose_samples
from edgeexit_runtime.gathering import gather, open_for
from edgeexit_runtime.machine import describe_machine

OURS = "EdgeExit"
BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALLOWED = 1.01
DEVICE_BUDGET = 0.5
SINGLES = 200
ROUNDING = 1e-4  # a score so close to its threshold may fall on either side of it at another batch size


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--calibration", type=click.Path(exists=True), required=True)
@click.option("--test", type=click.Path(exists=True), required=True)
@click.option("--policies", default="all", help="Separated by commas, as for edgeexit compare.")
@click.option("--seeds", default=3, help="Fits where chance enters.")
@click.option("--device/--no-device", default=True, help="Whether to run the cascade under every policy too.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "policies.json")
def main(
    bundles: tuple[str, ...], calibration: str, test: str, policies: str, seeds: int, device: bool, out: Path
) -> None:
    """Compare, check, write one JSON document, and print tables in Markdown."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document["machine"] = describe_machine()
    contenders = find_contenders(policies.split(","))
    for word in bundles:
        name, _, path = word.partition("=")
        print(name, file=sys.stderr)
        document.setdefault("bundles", {})[name] = examine(path, calibration, test, contenders, seeds, device)
        print(markdown(name, document["bundles"][name]))
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def examine(
    path: str, calibration: str, test: str, contenders: Sequence[Contender], seeds: int, device: bool
) -> dict[str, Any]:
    """Everything about one bundle."""
    bundle = Bundle.open(path)
    cascade = Cascade.open(bundle)
    costs = np.array([entry.cost for entry in bundle.manifest.exits])
    fitting = gathered(cascade, open_for(bundle.manifest, calibration, "data"))
    dataset = open_for(bundle.manifest, test, "data")
    measuring = gathered(cascade, dataset)
    for cached in (fitting, measuring):
        cached.check(bundle.manifest.labels)
    start_s = time.perf_counter()
    with progress("fitting policies", steps(contenders, BUDGETS, seeds)) as advance:
        found = trials(fitting, measuring, costs, BUDGETS, contenders=contenders, seeds=seeds, advance=advance)
    rows = summarise(found, costs)
    return {
        "sources": [source.name for source in bundle.manifest.provenance.sources],
        "exits": [{"name": entry.name, "head": entry.head, "cost": entry.cost} for entry in bundle.manifest.exits],
        "samples": {"calibration": fitting.samples, "test": measuring.samples},
        "full_accuracy": {"calibration": last_accuracy(fitting), "test": last_accuracy(measuring)},
        "fits_s": round(time.perf_counter() - start_s, 1),
        "rows": [asdict(row) for row in rows],
        "over_budget": over_budget(rows),
        "margins": margins(rows, found),
        "device_equals_replay": decisions(cascade, dataset, fitting, measuring, costs, contenders) if device else None,
    }


def gathered(cascade: Cascade, dataset: Dataset) -> CachedLogits:
    """The logits of all samples."""
    with progress("running all exits", len(dataset)) as advance:
        return gather(cascade, dataset, advance=advance)


def last_accuracy(cached: CachedLogits) -> float:
    """Of the whole model."""
    return float((cached.logits[-1].argmax(axis=1) == cached.labels).mean())


def over_budget(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows whose mean cost on the test split exceeds `ALLOWED` × budget."""
    return [
        {"policy": row.policy, "budget": row.budget, "cost": row.cost, "cost_over_budget": row.cost / row.budget}
        for row in rows
        if row.cost is not None and row.cost > ALLOWED * row.budget
    ]


def margins(rows: Sequence[Row], found: Sequence[Trial]) -> list[dict[str, Any]]:
    """For each of our policies and budgets: how far it is ahead of the best of the others, each way."""
    by_name = {trial.contender.name: trial.contender for trial in found}
    ours = [row for row in rows if row.accuracy is not None and POLICIES[by_name[row.policy].policy].source == OURS]
    table = []
    for row in ours:
        entry: dict[str, Any] = {"ours": row.policy, "budget": row.budget, "accuracy": row.accuracy}
        others = [
            other
            for other in rows
            if other.budget == row.budget
            and other.accuracy is not None
            and POLICIES[by_name[other.policy].policy].source != OURS
        ]
        for way, part in (
            ("as_published", [other for other in others if not other.policy.endswith("+joint")]),
            ("with_joint_thresholds", [other for other in others if other.thresholds == "joint"]),
        ):
            best = max(part, key=lambda other: other.accuracy or 0.0, default=None)
            if best is not None:
                margin, error = difference(found, row, best)
                entry[way] = {"best": best.policy, "accuracy": best.accuracy, "margin": margin, "margin_error": error}
        table.append(entry)
    return table


def difference(found: Sequence[Trial], one: Row, other: Row) -> tuple[float, float]:
    """Difference of two accuracies on the same samples, and its standard error over samples and seeds."""
    first, second = (
        np.stack([t.right for t in found if (t.contender.name, t.budget) == (row.policy, row.budget)]).astype(float)
        for row in (one, other)
    )
    by_sample = first.mean(axis=0) - second.mean(axis=0)
    over_seeds = sum(part.mean(axis=1).var(ddof=1) / len(part) for part in (first, second) if len(part) > 1)
    return float(by_sample.mean()), float(np.sqrt(by_sample.var() / len(by_sample) + over_seeds))


def decisions(
    cascade: Cascade,
    dataset: Dataset,
    fitting: CachedLogits,
    measuring: CachedLogits,
    costs: NDArray[np.float64],
    contenders: Sequence[Contender],
) -> list[dict[str, Any]]:
    """Run the cascade under every policy, and count where it decides unlike the replay."""
    names = list(dict.fromkeys(contender.policy for contender in contenders))
    everybody = np.arange(len(dataset))
    some = choose_samples(dataset, SINGLES)
    table = []
    with progress("running the cascade", len(names) * (len(everybody) + len(some))) as advance:
        for name in names:
            goal = Budget(DEVICE_BUDGET)
            policy = tune(name, fitting.logits, fitting.labels, costs, goal, method="joint").policy
            running = cascade.with_policy(policy)
            for batch, rows in ((64, everybody), (1, some)):
                answers = []
                for arrays in dataset.batches(batch, rows):
                    answers.append(running.run(arrays))
                    advance(len(answers[-1]))
                exits = np.concatenate([answer.exit for answer in answers])
                labels = np.concatenate([answer.label for answer in answers])
                table.append({"policy": name, "batch": batch, **agreement(policy, measuring.rows(rows), exits, labels)})
    return table


def agreement(
    policy: Policy, cached: CachedLogits, exits: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, int]:
    """How many samples were decided otherwise than replayed, and how many of those have a score at a threshold."""
    expected = replay(policy, cached.logits)
    differs = (exits != expected.exit) | (labels != expected.label)
    finite = np.flatnonzero(np.isfinite(policy.thresholds))
    thresholds = np.asarray(policy.thresholds)[finite, None]
    distance = np.abs(judge(policy, cached.logits).score[finite] - thresholds)
    explained = differs & (distance <= ROUNDING * np.maximum(1.0, np.abs(thresholds))).any(axis=0)
    return {"samples": cached.samples, "mismatches": int(differs.sum()), "at_a_threshold": int(explained.sum())}


def markdown(name: str, result: dict[str, Any]) -> str:
    """The tables of one bundle."""
    cells = {(row["policy"], row["budget"]): row for row in result["rows"]}
    lines = [
        f"## {name}: accuracy in percent on {result['samples']['test']} test samples, "
        f"whole model {100 * result['full_accuracy']['test']:.2f}",
        "",
        "| policy | " + " | ".join(f"≤ {budget:g}" for budget in BUDGETS) + " |",
        "|---|" + "---|" * len(BUDGETS),
    ]
    best = {
        budget: max((row["accuracy"] or 0.0) for row in result["rows"] if row["budget"] == budget) for budget in BUDGETS
    }
    for policy in dict.fromkeys(row["policy"] for row in result["rows"]):
        shown = []
        for budget in BUDGETS:
            row = cells[policy, budget]
            text = (
                "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_error']:.2f}"
            )
            shown.append(f"**{text}**" if row["accuracy"] == best[budget] else text)
        lines.append(f"| {policy} | " + " | ".join(shown) + " |")
    lines += ["", "Ahead of the best of the others, in points ± standard error:", ""]
    lines += [
        "| ours | others | " + " | ".join(f"≤ {budget:g}" for budget in BUDGETS) + " |",
        "|---|---|" + "---|" * len(BUDGETS),
    ]
    margins_of = {(entry["ours"], entry["budget"]): entry for entry in result["margins"]}
    for ours in dict.fromkeys(entry["ours"] for entry in result["margins"]):
        for way in ("as_published", "with_joint_thresholds"):
            found = [margins_of.get((ours, budget), {}).get(way) for budget in BUDGETS]
            shown = [f"{100 * m['margin']:+.2f} ± {100 * m['margin_error']:.2f}" if m else "–" for m in found]
            lines.append(f"| {ours} | {way.replace('_', ' ')} | " + " | ".join(shown) + " |")
    lines += ["", f"Mean costs above {ALLOWED} × budget: {len(result['over_budget'])}"]
    lines += [f"- {row['policy']} at {row['budget']:g}: {row['cost']:.4f}" for row in result["over_budget"]]
    if result["device_equals_replay"] is not None:
        wrong = [row for row in result["device_equals_replay"] if row["mismatches"]]
        lines += ["", f"Policies under which the cascade decides unlike the replay: {len(wrong)}"]
        lines += [f"- {row}" for row in wrong]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
