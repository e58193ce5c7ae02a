"""What do early exits save when samples are clustered, and at what loss, with no label anywhere?

Trains deep embedded clustering with three exits (784-500-500-2000-10, its exits 500-10 and 500-500-10) on MNIST for
each seed, exports the network, fits thresholds on the calibration split against the whole model's own clusters
for a ladder of budgets, and answers the test split on the device side. Labels only score: clusters are named once,
from the whole model's answers on the test split, and early exits must name the same ones. Writes
`benchmarks/results/clustering.json`.

    python benchmarks/clustering.py --data DATA

DATA holds `train`, `calibration` and `test`, each a folder with one subfolder of 28 × 28 pictures per digit:
MNIST (LeCun et al. 1998) saved as PNG, here subsets of 20,000, 3,000 and 4,000 pictures. The digits' folders are
not looked at before the scoring.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeexit.policies import AUTO
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget
from edgeexit.training.clustering.autoencoder import pretrain
from edgeexit.training.clustering.clusters import cluster
from edgeexit.training.clustering.distortion import Distortion
from edgeexit.training.clustering.network import DeepClustering
from edgeexit.training.clustering.scores import clustering_accuracy, match, normalised_mutual_information
from edgeexit.training.clustering.settings import ClusterSettings, PretrainSettings
from edgeexit.tuning import tune_all
from edgeexit_runtime import Cascade
from edgeexit_runtime.machine import describe_machine

BUDGETS = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8)
SHOWN = "0.4"
TOLERANCE = 1e-4
WEIGHTS = "EDGEEXIT_CLUSTERING_WEIGHTS"

Numbers = NDArray[np.int64]


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--epochs", default=50, show_default=True, help="Of the pretraining.")
@click.option("--threads", default=2, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for weights and bundles; a seed that is there is not trained anew.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "clustering.json")
def main(data: Path, seeds: str, epochs: int, threads: int, precision: str, keep: Path | None, out: Path) -> None:
    """Train, export and measure each seed, and write one JSON document; other seeds keep their results."""
    torch.set_num_threads(threads)
    recipe = settings(epochs, precision)
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    runs = document.get("seeds", {}) if document.get("recipe") == plain(recipe) else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if keep is None else keep
        for seed in map(int, seeds.split(",")):
            run = Path(folder) / f"seed{seed}"
            run.mkdir(parents=True, exist_ok=True)
            trained = train(data, run, seed, recipe)
            runs[str(seed)] = {**trained, **measure(data, run, threads)}
            click.echo(f"seed {seed}: {runs[str(seed)]['whole']} {runs[str(seed)]['budgets'][SHOWN]}")
    runs = {key: runs[key] for key in sorted(runs, key=int)}
    document = {
        "machine": describe_machine() | {"threads": threads, "torch": torch.__version__},
        "recipe": plain(recipe),
        "mean": mean_of(list(runs.values())),
        "seeds": runs,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(json.dumps(document["mean"], indent=1))


def settings(epochs: int, precision: str) -> dict[str, Any]:
    """The recipe, but for the seed."""
    distortion = Distortion(turn=10, shift=0.1)
    return {
        "pretrain": {"epochs": epochs, "precision": precision, "distortion": distortion},
        "cluster": {"epochs": 25, "exit_epochs": 8, "precision": precision, "distortion": distortion},
    }


def plain(recipe: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    return document


def train(data: Path, run: Path, seed: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """Pretrain and cluster on the pictures alone, and save the weights; or take those that an earlier run kept."""
    record, asked = run / "training.json", {"seed": seed, "recipe": plain(recipe)}
    if record.exists() and (kept := json.loads(record.read_text()))["asked"] == asked:
        outcome: dict[str, Any] = kept["outcome"]
        return outcome
    samples = scaled(pictures(data / "train")[0])
    network = DeepClustering(seed=seed)
    start = time.perf_counter(), time.process_time()
    losses = pretrain(network, samples, PretrainSettings(seed=seed, **recipe["pretrain"]))
    middle = time.perf_counter()
    found = cluster(network, samples, ClusterSettings(seed=seed, **recipe["cluster"]))
    save_file(network.state_dict(), run / "weights.safetensors")
    outcome = {
        "pretrain_s": round(middle - start[0], 1),
        "cluster_s": round(time.perf_counter() - middle, 1),
        "cpu_s": round(time.process_time() - start[1], 1),
        "reconstruction_error": losses[-1],
        "train_sizes": found.sizes,
        "train_agreement": found.agreement,
    }
    record.write_text(json.dumps({"asked": asked, "outcome": outcome}))
    return outcome


def network() -> DeepClustering:
    """What is exported: `clustering:network`, with the weights that the environment names."""
    built = DeepClustering()
    built.load_state_dict(load_file(os.environ[WEIGHTS]))
    return built.eval()


def measure(data: Path, run: Path, threads: int) -> dict[str, Any]:
    """Export, verify, tune without labels, and answer the test split on the device side."""
    bundle = run / "bundle"
    os.environ[WEIGHTS] = str(run / "weights.safetensors")
    splits = ("--data", data / "train", "--calibration", data / "calibration", "--labels", "model")
    exported = edgeexit("export", "clustering:network", *splits, "--threads", threads, "--seed", 0, "-o", bundle)
    edgeexit("verify", bundle)
    cascade = Cascade.open(bundle)
    costs = np.array([entry.cost for entry in cascade.manifest.exits])
    calibration, (test, labels) = answers(cascade, pictures(data / "calibration")[0]), pictures(data / "test")
    logits = answers(cascade, test)
    own = network()
    with torch.no_grad():
        torch_logits = [values.numpy() for values in own(scaled(test))]
    whole = logits[-1].argmax(axis=1)
    naming = match(np.bincount(whole * own.clusters + labels, minlength=own.clusters**2).reshape(own.clusters, -1))
    result: dict[str, Any] = {
        "bundle_bytes": exported["size_bytes"],
        "whole": scores(whole, labels, naming, whole) | {"cost": 1.0},
        "exits_alone": [
            scores(at_exit.argmax(axis=1), labels, naming, whole) | {"cost": float(cost)}
            for at_exit, cost in zip(logits, costs, strict=True)
        ],
        "largest_logit_difference": max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(logits, torch_logits, strict=True)
        ),
        "budgets": {},
    }
    for budget in BUDGETS:
        tuned = tune_all(AUTO, calibration, calibration[-1].argmax(axis=1), costs, Budget(budget))[0]
        given = cascade.with_policy(tuned.policy).run(test)
        elsewhere, far = strays(tuned.policy, given.exit, torch_logits)
        result["budgets"][f"{budget:g}"] = {
            "policy": tuned.policy.name,
            **scores(given.label, labels, naming, whole),
            "cost": float(costs[given.exit].mean()),
            "shares": (np.bincount(given.exit, minlength=len(costs)) / len(labels)).tolist(),
            "other_exit_than_torch": elsewhere,
            "of_them_away_from_the_threshold": far,
        }
    return result


def scores(assignments: Numbers, labels: Numbers, naming: Numbers, whole: Numbers) -> dict[str, float]:
    """ACC under the whole model's names, ACC under the best names of its own, NMI, and the share as the whole model."""
    return {
        "accuracy": float((naming[assignments] == labels).mean()),
        "accuracy_own_names": clustering_accuracy(assignments, labels),
        "nmi": normalised_mutual_information(assignments, labels),
        "as_whole_model": float((assignments == whole).mean()),
    }


def strays(policy: Any, exits: Numbers, torch_logits: list[NDArray[np.float32]]) -> tuple[int, int]:
    """Samples that leave elsewhere than torch's logits say, and those of them whose scores are not at a threshold."""
    other = np.flatnonzero(replay(policy, torch_logits).exit != exits)
    gap = np.abs(judge(policy, torch_logits).score[:-1, other] - np.array(policy.thresholds[:-1])[:, None])
    return len(other), int((gap.min(axis=0) > TOLERANCE).sum()) if len(other) else 0


def answers(cascade: Cascade, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Every exit's logits, (n, clusters) each, on the device side."""
    parts = [cascade.logits(pixels[start : start + 256]) for start in range(0, len(pixels), 256)]
    return list(np.concatenate(parts, axis=1))


def pictures(folder: Path) -> tuple[NDArray[np.uint8], Numbers]:
    """Pictures (n, 28, 28, 1) uint8, and their digits, in an order that tells nothing."""
    paths = sorted(folder.glob("*/*.png"))
    order = np.random.default_rng(0).permutation(len(paths))
    pixels = np.stack([np.asarray(Image.open(paths[k]).convert("L")) for k in order])
    return pixels[..., None], np.array([int(paths[k].parent.name) for k in order], dtype=np.int64)


def scaled(pixels: NDArray[np.uint8]) -> Tensor:
    """What the network takes, as the bundle makes it of pictures: (n, 1, 28, 28) float32 from 0 to 1."""
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def mean_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The curve over the seeds: means, and each seed's drop at the budget of the paper's figure."""
    drops = [run["whole"]["accuracy"] - run["budgets"][SHOWN]["accuracy"] for run in runs]
    return {
        "whole": average([run["whole"] for run in runs]),
        "exits_alone": [average(rows) for rows in zip(*(run["exits_alone"] for run in runs), strict=True)],
        "budgets": {f"{b:g}": average([run["budgets"][f"{b:g}"] for run in runs]) for b in BUDGETS},
        "drop_points_at_0.4": {"mean": 100 * float(np.mean(drops)), "each": [100 * drop for drop in drops]},
    }


def average(rows: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("accuracy", "accuracy_own_names", "nmi", "as_whole_model", "cost")
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def edgeexit(*arguments: object) -> dict[str, Any]:
    """Run a command with --json and give its document; it finds this file's `network`."""
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "edgeexit", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": here}, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    main()
