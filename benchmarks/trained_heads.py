"""Heads that torch trains on a frozen model, against heads fitted in one pass: what does a cascade cost at equal loss?

All heads stand behind the same tensors of the same ONNX model, which no kind changes, and see the same training
pictures: once with their labels, and once with nothing but the model's own answers. Trained heads get one epoch,
six (the two budgets of E2CM's table I), or as many as asked for. Thresholds are fitted on the calibration split
for a ladder of largest losses, and measured on the test split; between the points the mean cost is interpolated at
equal measured losses. Writes `benchmarks/results/trained_heads.json`.

    python benchmarks/trained_heads.py --model resnet56-cifar10.onnx --data DATA

DATA holds `train`, `calibration` and `test`, each a folder with one subfolder of pictures per class: CIFAR-10
(Krizhevsky 2009) saved as JPEG, 45,000, 5,000 and 5,000 pictures of 32 × 32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from by_design import gathered
from label_free import cost_at

from edgeexit.cached import CachedLogits
from edgeexit.errors import UnreachableError
from edgeexit.policies import AUTO
from edgeexit.replay import replay
from edgeexit.thresholds import MaxDrop
from edgeexit.tuning import tune_all
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.machine import describe_machine

LIMITS = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05)
LOSSES = (0.005, 0.01, 0.02)
NORMALISATION = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
CONVOLUTIONS = "conv:2x,4x/128@dropout=0.2"
KINDS: dict[str, tuple[str, ...]] = {
    "class-means": ("--head", "class-means"),
    "gaussian": ("--head", "gaussian"),
    "linear, 1 epoch": ("--head", "trained", "--exit-head", "linear", "--epochs", "1"),
    "linear, 6 epochs": ("--head", "trained", "--exit-head", "linear", "--epochs", "6"),
    "conv, 1 epoch": ("--head", "trained", "--exit-head", CONVOLUTIONS, "--epochs", "1"),
    "conv, 6 epochs": ("--head", "trained", "--exit-head", CONVOLUTIONS, "--epochs", "6"),
}


@click.command()
@click.option("--model", type=click.Path(exists=True, dir_okay=False), required=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--exits", default="6", show_default=True, help="As for edgeexit export, but the same for all heads.")
@click.option("--labels", multiple=True, default=("model", "data"), type=click.Choice(["model", "data"]))
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="Only these; others keep their results.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "trained_heads.json"
)
def main(model: str, data: Path, exits: str, labels: tuple[str, ...], only: tuple[str, ...], out: Path) -> None:
    """Export, measure, and write one JSON document."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document |= {"machine": describe_machine(), "model": Path(model).name, "exits": exits}
    rows = document.setdefault("rows", {})
    for kind in only or KINDS:
        for known in labels:
            with tempfile.TemporaryDirectory() as folder:
                bundle = Path(folder) / "bundle"
                seconds = exported(model, data, exits, known, KINDS[kind], bundle)
                row = {"flags": KINDS[kind], "seconds": round(seconds), **measured(bundle, data, known)}
                row["verify"] = verified(bundle)
                rows[f"{kind}, labels: {known}"] = row
            out.write_text(json.dumps(document, indent=1) + "\n")
            click.echo(f"{kind}, labels: {known}: {seconds:.0f} s, exits {row['accuracy']}, {row['cost_at_loss']}")


def exported(model: str, data: Path, exits: str, labels: str, flags: Sequence[str], bundle: Path) -> float:
    """Run `edgeexit export`; how many seconds it took."""
    splits = ("--data", str(data / "train"), "--calibration", str(data / "calibration"))
    command = [sys.executable, "-m", "edgeexit", "export", model, *splits, *NORMALISATION, "--exits", exits, *flags]
    start_s = time.perf_counter()
    # thresholds come later; an export must not end because it cannot reach one with these heads
    subprocess.run([*command, "--labels", labels, "--max-drop", "0.05", "-o", str(bundle)], check=True)
    return time.perf_counter() - start_s


def measured(bundle: Path, data: Path, labels: str) -> dict[str, Any]:
    """Each exit's accuracy, and the curve of loss and cost, on the test split."""
    cascade = Cascade.open(bundle)
    entries = cascade.manifest.exits
    costs = np.array([entry.cost for entry in entries])
    fitting, measuring = (gathered(cascade, data / split) for split in ("calibration", "test"))
    if labels == "model":
        fitting = fitting.labelled_by_the_model()
    points = curve(fitting, measuring, costs)
    return {
        "names": [entry.name for entry in entries],
        "costs": [round(float(cost), 4) for cost in costs],
        "accuracy": [round(float((row.argmax(axis=1) == measuring.labels).mean()), 4) for row in measuring.logits],
        "curve": points,
        "cost_at_loss": {f"{loss:g}": cost_at(loss, points) for loss in LOSSES},
    }


def verified(bundle: Path) -> dict[str, Any]:
    """What `edgeexit verify` says: how far answers on this machine are from those at export."""
    command = [sys.executable, "-m", "edgeexit", "verify", str(bundle), "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return {key: value for key, value in found.items() if key != "bundle"}


def curve(fitting: CachedLogits, measuring: CachedLogits, costs: np.ndarray) -> list[dict[str, Any]]:
    """Measured loss of accuracy against the whole model and mean cost, for each limit that can be kept."""
    whole = (measuring.logits[-1].argmax(axis=1) == measuring.labels).mean()
    points = []
    for limit in LIMITS:
        try:
            best = tune_all(AUTO, fitting.logits, fitting.labels, costs, MaxDrop(limit), method="joint")[0]
        except UnreachableError:
            continue
        answers = replay(best.policy, measuring.logits)
        loss = float(whole - (answers.label == measuring.labels).mean())
        cost = float(costs[answers.exit].mean())
        points.append({"limit": limit, "policy": best.policy.name, "drop": round(loss, 4), "cost": round(cost, 4)})
    return points


if __name__ == "__main__":
    main()
