"""What do exits save on sentences? MiniLM on SST-2 and on AG News, with an exit after every layer.

    python benchmarks/text.py --data SST2
    python benchmarks/text.py --data AG

SST2 and AG are folders, described in `benchmarks/sentences.py`. A thousand of the training sentences are held out: for
calibration, and for nothing else. Then, on the rest and for each seed,

    exits       a network with exits after layers 1 to 5 is trained jointly, the last exit teaching the others
    plain       the same network without exits is trained as long: what exits do to the whole model
    shallow     so are its first three layers alone: a smaller model at half the cost, with no cascade at all

The network with exits goes down the road that users go: `edgeexit export`, `verify`, `tune --budget`, `eval` and
`compare`, all thresholds and the choice of the policy from the calibration split. Logits and exits of the device side
are held against torch's. Adds to `benchmarks/results/text.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sentences import Classifier, Task, pretrained, save_splits, task_of
from torch import Tensor, nn

from edgeexit.cached import CachedLogits
from edgeexit.comparison import compare
from edgeexit.replay import judge, replay
from edgeexit.training import Feed, MultiExit, TrainingResult, TrainSettings, save_run, train
from edgeexit_runtime import Cascade
from edgeexit_runtime.gathering import gather, open_for
from edgeexit_runtime.machine import describe_machine

BUDGETS = {0.5: 0.015, 0.7: 0.005}
"""Mean cost as a share of the whole model's MACs, and the largest loss of accuracy wanted at it."""

HEAD = "token@tokens=mean,dropout=0.1"
RATE, BACKBONE_SHARE = 1e-3, 0.1
SHALLOW_LAYERS = 3
NEAR = 1e-3  # a score so close to its threshold may fall on either side of it
TIMED = 100  # samples at batch 1
INPUTS = ("input_ids", "attention_mask")


class Alone(nn.Module):
    """A network without exits as the trainer takes it: its logits are the only ones."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return (self.network(input_ids, attention_mask),)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seeds", default=1, show_default=True)
@click.option("--epochs", default=2, show_default=True)
@click.option("--samples", type=int, help="To train on at most.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rivals/--no-rivals", default=True, help="Train networks without exits too.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "text.json")
def main(data: Path, seeds: int, epochs: int, samples: int | None, threads: int, rivals: bool, out: Path) -> None:
    """Train, export, measure, and write one JSON document."""
    task = task_of(data)
    torch.set_num_threads(threads)
    settings = [settings_for(epochs, seed, threads) for seed in range(seeds)]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = save_splits(task, data, folder, samples=samples)
        feeds = {split: load_feed(path) for split, path in files.items()}
        about = {
            "machine": describe_machine(),
            "threads": threads,
            "samples": {split: feed.samples for split, feed in feeds.items()},
            "tokens": task.length,
            "head": HEAD,
            "settings": fields(settings[0]),
        }
        for each in settings:
            began = Clock()
            runs.append({"seed": each.seed, **exits(task, files, feeds, folder / str(each.seed), each)})
            write(out, task.name, about, runs)
            if rivals:
                runs[-1]["plain"] = alone(task, feeds, each, None)
                runs[-1]["shallow"] = {"layers": SHALLOW_LAYERS, **alone(task, feeds, each, SHALLOW_LAYERS)}
            runs[-1]["seconds"] = began.spent()
            write(out, task.name, about, runs)


def write(out: Path, name: str, about: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Put what there is of a data set into the document."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document[name] = {**about, "mean": summary(runs), "seeds": runs}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def settings_for(epochs: int, seed: int, threads: int) -> TrainSettings:
    """Of the network with exits."""
    return TrainSettings(
        mode="joint",
        epochs=epochs,
        batch=32,
        rate=RATE,
        backbone_rate=BACKBONE_SHARE,
        weight_decay=0.01,
        warmup=0.06,
        clip=1.0,
        self_distillation=1.0,
        temperature=2.0,
        keep="last",
        seed=seed,
        threads=threads,
    )


def exits(
    task: Task, files: dict[str, Path], feeds: dict[str, Feed], folder: Path, settings: TrainSettings
) -> dict[str, Any]:
    """The network with exits, from training to the device side."""
    folder.mkdir()
    began = Clock()
    network, result = with_exits(task, feeds, settings)
    trained = began.spent()
    save_run(folder / "run", network, settings, result, source=task.source, class_names=task.classes)
    bundle = folder / "bundle"
    exported = edgeexit("export", folder / "run", "--data", files["train"], "--calibration", files["calibration"],
                        "--exits", len(network.at), "--threads", settings.threads, "-o", bundle)  # fmt: skip
    return {
        "train": trained,
        "size_bytes": exported["size_bytes"],
        "verify": {key: value for key, value in edgeexit("verify", bundle).items() if key != "bundle"},
        **on_device(bundle, files, network, feeds["test"]),
    }


def with_exits(task: Task, feeds: dict[str, Feed], settings: TrainSettings) -> tuple[MultiExit, TrainingResult]:
    """MiniLM with an exit after every layer, trained jointly."""
    backbone = pretrained(len(task.classes), seed=settings.seed)
    example = dict(zip(INPUTS, feeds["train"].example(2), strict=True))
    network = MultiExit.attach(backbone, backbone.places, HEAD, example=example, seed=settings.seed)
    result = train(network, feeds["train"], feeds["calibration"], settings)
    return network.eval(), result


def alone(task: Task, feeds: dict[str, Feed], settings: TrainSettings, layers: int | None) -> dict[str, Any]:
    """The network, or its first layers, trained without exits: its accuracy on the test set."""
    began = Clock()
    network = Alone(pretrained(len(task.classes), layers=layers, seed=settings.seed))
    changed = {"rate": RATE * BACKBONE_SHARE, "self_distillation": 0.0}
    train(network, feeds["train"], feeds["calibration"], TrainSettings(**{**fields(settings), **changed}))
    test = feeds["test"]
    right = answers(network.eval(), test)[-1].argmax(1) == test.labels
    return {**share(right), "train": began.spent()}


def on_device(bundle: Path, files: dict[str, Path], network: MultiExit, test: Feed) -> dict[str, Any]:
    """Thresholds for each budget and every policy from the calibration split, measured on the test set."""
    cascade = Cascade.open(bundle, threads=torch.get_num_threads())
    cached = {split: cached_logits(cascade, files[split]) for split in ("calibration", "test")}
    costs = np.array([entry.cost for entry in cascade.manifest.exits])
    wanted = answers(network, test)
    rows = compare(cached["calibration"], cached["test"], costs, list(BUDGETS), seeds=1)
    return {
        "exits": {
            e.name: share(z.argmax(1) == test.labels) for e, z in zip(cascade.manifest.exits, wanted, strict=True)
        },
        "budgets": {str(budget): at_budget(bundle, budget, files, cached["test"], wanted) for budget in BUDGETS},
        "compare": [{key: getattr(row, key) for key in ("policy", "budget", "accuracy", "cost")} for row in rows],
    }


def cached_logits(cascade: Cascade, path: Path) -> CachedLogits:
    return gather(cascade, open_for(cascade.manifest, path, "data"), advance=lambda _: None)


def at_budget(
    bundle: Path, budget: float, files: dict[str, Path], cached: CachedLogits, wanted: list[NDArray[np.float32]]
) -> dict[str, Any]:
    """Thresholds for a budget from the calibration split, then the test set on the device side, and beside torch."""
    tuned = bundle.with_name(f"at-{budget}")
    threads = torch.get_num_threads()
    edgeexit("tune", bundle, "--data", files["calibration"], "--budget", budget, "--threads", threads, "-o", tuned)
    evaluated = edgeexit("eval", tuned, "--data", files["test"], "--threads", threads, "--timing-samples", TIMED)
    cascade = Cascade.open(tuned, threads=threads)
    data = open_for(cascade.manifest, files["test"], "data")
    found = cascade.run(next(iter(data.batches(len(data)))))
    right, full = found.label == cached.labels, cached.logits[-1].argmax(1) == cached.labels
    drop = full.astype(float) - right
    return {
        "policy": cascade.policy.name,
        **share(right),
        "cost": evaluated["mean_cost"],
        "full": share(full),
        "drop": float(drop.mean()),
        "drop_error": float(drop.std() / len(drop) ** 0.5),
        "drop_wanted": BUDGETS[budget],
        "ms_over_full_ms": evaluated["mean_ms"] / evaluated["full_ms"],
        "exits": evaluated["exits"],
        "verify": {key: value for key, value in edgeexit("verify", tuned).items() if key != "bundle"},
        "parity": parity(cascade, cached.logits, found.exit, wanted),
    }


def parity(
    cascade: Cascade, device: Sequence[NDArray[np.float32]], exits: NDArray[np.int64], torch_: list[NDArray[np.float32]]
) -> dict[str, Any]:
    """How far logits and exits of the device side are from torch's."""
    thresholds = np.array(cascade.policy.thresholds[:-1], dtype=np.float32)[:, None]
    near = (np.abs(judge(cascade.policy, torch_).score[:-1] - thresholds) < NEAR).any(0)
    equal = replay(cascade.policy, torch_).exit == exits
    return {
        "logits_differ_by": max(float(np.abs(a - b).max()) for a, b in zip(device, torch_, strict=True)),
        "near_a_threshold": int(near.sum()),
        "equal_exits_elsewhere": float(equal[~near].mean()),
        "equal_exits": float(equal.mean()),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""

    def mean(*path: str) -> float:
        return float(np.mean([reduce(getitem, path, run) for run in runs]))

    found: dict[str, Any] = {"full": mean("budgets", str(next(iter(BUDGETS))), "full", "accuracy")}
    for budget in map(str, BUDGETS):
        found[budget] = {key: mean("budgets", budget, key) for key in ("accuracy", "cost", "drop", "drop_error")}
    for rival in ("plain", "shallow"):
        if all(rival in run for run in runs):
            found[rival] = mean(rival, "accuracy")
    return found


@torch.no_grad()
def answers(network: nn.Module, feed: Feed) -> list[NDArray[np.float32]]:
    """Logits (n, C) of each exit."""
    batches = [network(*batch.inputs) for batch in feed.in_order()]
    return [torch.cat(one).numpy() for one in zip(*batches, strict=True)]


def load_feed(path: Path) -> Feed:
    arrays = np.load(path)
    return Feed.from_arrays({name: arrays[name] for name in INPUTS}, arrays["y"])


def share(right: NDArray[np.bool_]) -> dict[str, float]:
    """Of right answers, with its standard error."""
    p = float(right.mean())
    return {"accuracy": p, "accuracy_error": (p * (1 - p) / len(right)) ** 0.5}


def fields(settings: TrainSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


class Clock:
    """Seconds on the wall, and of processor time in this process and in the commands that it ran."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def spent(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self.wall, sum(os.times()[:4]) - self.cpu
        return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}


def edgeexit(*arguments: object) -> Any:
    """Run a command with --json, from this folder, where the network's source is; what it says."""
    command = [sys.executable, "-m", "edgeexit", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
