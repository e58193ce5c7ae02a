"""Does a network that is multi-exit by design go the whole road: trained, exported, right on the device, cheaper?

    python benchmarks/by_design.py --data CIFAR --out OUT

CIFAR holds `train`, `calibration` and `test`, each with one subfolder of 32 × 32 pictures a class: CIFAR-10
(Krizhevsky 2009) saved as JPEG, say. An MSDNet (`benchmarks/msdnet.py`) is trained on some pictures of `train`, all
its exits at once, and its weights are written to OUT. `edgeexit export msdnet:trained` makes the bundle, `edgeexit
verify` replays it. Then, on `test`: the logits and the exits of the bundle against those of the torch network; what
crosses each cut; accuracy and mean cost for a ladder of largest losses, thresholds fitted on `calibration`; and the
time of it all. Writes `benchmarks/results/by_design.json`.

A few epochs on a part of the data make no good classifier: a trained MSDNet is right on 93 % of CIFAR-10 and more.
What is measured is the road, and what exits save of this network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import click
import msdnet
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from edgeexit.bundle import Bundle
from edgeexit.cached import CachedLogits
from edgeexit.console import progress
from edgeexit.data import Dataset, open_data
from edgeexit.errors import UnreachableError
from edgeexit.manifest import Manifest, Preprocessing, TensorSpec
from edgeexit.policies import AUTO, Policy
from edgeexit.replay import judge, replay
from edgeexit.thresholds import MaxDrop
from edgeexit.training import Feed, TrainSettings, train
from edgeexit.tuning import tune_all
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import gather, open_for
from edgeexit_runtime.machine import describe_machine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURES = Preprocessing(kind="image", mode="RGB", size=(32, 32), resize="exact", mean=MEAN, std=STD)
HELD = 2000
PARITY_SAMPLES = 2000
NEAR = 1e-4
LIMITS = (0.0025, 0.005, 0.01, 0.02, 0.03)
SETTINGS = TrainSettings(
    mode="joint",
    epochs=4,
    batch=64,
    rate=4e-3,
    backbone_rate=1.0,
    weight_decay=0.02,
    schedule="onecycle",
    loss_weights="uniform",
    augment="crop",
)

Arrays = Mapping[str, NDArray[Any]]


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--pictures", default=8_000, show_default=True, help="To train on, the same number of each class.")
@click.option("--epochs", default=SETTINGS.epochs, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "by_design.json"
)
def main(data: Path, out: Path, pictures: int, epochs: int, threads: int, results: Path) -> None:
    """Train, export, verify, measure, and write one JSON document."""
    out.mkdir(parents=True, exist_ok=True)
    settings = msgspec.structs.replace(SETTINGS, epochs=epochs, threads=threads)
    network = msdnet.untrained()
    training = teach(network, data, pictures, settings, out)
    flags = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)), "--threads", str(threads)]
    bundle = exported("msdnet:trained", data / "train", data / "calibration", out / "msdnet", *flags)
    cascade = Cascade.open(bundle)
    test = open_for(cascade.manifest, data / "test", "data")
    logits = {split: gathered(cascade, data / split) for split in ("calibration", "test")}
    document = {
        "machine": describe_machine(),
        "training": training,
        "bundle": described(bundle),
        "parity": parity(bundle, network, test, Feed.from_dataset(test, PICTURES)),
        "exits": accuracies(logits["test"], cascade),
        "curve": curve(cascade, logits["calibration"], logits["test"]),
        "eval": edgeexit("eval", bundle, "--data", data / "test", "--threads", threads),
        "bench": timed(bundle, data / "test", "1,64"),
    }
    results.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(document))


def teach(network: nn.Module, data: Path, pictures: int, settings: TrainSettings, out: Path) -> dict[str, Any]:
    """Train all exits at once and write the weights to OUT."""
    spec = TensorSpec(name="image", dtype="uint8", shape=(32, 32, 3))
    whole = open_data(data / "train", [spec], PICTURES)
    rows = evenly(whole, pictures + HELD)
    chosen, held = (Feed.from_dataset(whole.take(part), PICTURES) for part in (rows[HELD:], rows[:HELD]))
    result = train(network, chosen, held, settings, folder=out / "run")
    save_file(network.state_dict(), out / msdnet.WEIGHTS)
    outcome = msgspec.to_builtins(result)
    return {"pictures": pictures, "held_out": HELD, "settings": msgspec.to_builtins(settings), **outcome}


def evenly(dataset: Dataset, number: int) -> NDArray[np.int64]:
    """The rows of this many samples, as many of each class, in an order that is always the same."""
    random = np.random.default_rng(0)
    assert dataset.labels is not None
    classes = len(dataset.class_names)
    rows = [random.permutation(np.flatnonzero(dataset.labels == c))[: number // classes] for c in range(classes)]
    return np.stack(rows, axis=1).reshape(-1)


def exported(source: str, data: Path, calibration: Path, bundle: Path, *flags: str) -> Path:
    """The bundle of a torch source that finds its weights beside the bundle, exported and verified."""
    where = ["--data", data.absolute(), "--calibration", calibration.absolute()]
    edgeexit("export", source, *where, *flags, "-o", bundle.absolute(), folder=bundle.parent)
    edgeexit("verify", bundle)
    return bundle


def edgeexit(*words: object, folder: Path | None = None) -> Any:
    """Run a command of `edgeexit`, with this folder's modules at hand; its JSON document."""
    path = os.pathsep.join([str(Path(__file__).parent.absolute()), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "edgeexit", *map(str, words), "--json"]
    start_s = time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, cwd=folder, env={**os.environ, "PYTHONPATH": path}
    )
    print(f"edgeexit {words[0]}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr)
    return json.loads(done.stdout)


def timed(bundle: Path, data: Path, batches: str) -> dict[str, Any]:
    """What `edgeexit bench` says of the bundle on one thread, without paths."""
    document = edgeexit("bench", bundle, "--data", data, "--batch", batches, "--threads", 1)
    return {key: value for key, value in document.items() if key not in ("bundle", "machine")}


def gathered(cascade: Cascade, data: Path) -> CachedLogits:
    """Every exit's logits, nobody leaving, on the device side."""
    dataset = open_for(cascade.manifest, data, "data")
    with progress(f"running all exits on {data.stem}", len(dataset)) as advance:
        return gather(cascade, dataset, batch=256, labels="data", advance=advance)


def described(bundle: Path) -> dict[str, Any]:
    """What each segment costs, what crosses the cut behind it, and how often each exit was taken in calibration."""
    manifest = Bundle.open(bundle).manifest
    return {
        "policy": manifest.policy.name,
        "macs": manifest.exits[-1].cost_macs,
        "segments": [
            {
                "macs": segment.macs,
                "params": segment.params,
                "bytes": segment.file.size_bytes,
                "inputs": [spec.name for spec in segment.inputs],
                "crossing": [[str(np.dtype(spec.dtype)), *spec.shape] for spec in crossing(manifest, k)],
                "crossing_bytes": sum(bytes_of(spec) for spec in crossing(manifest, k)),
            }
            for k, segment in enumerate(manifest.segments)
        ],
        "costs": [entry.cost for entry in manifest.exits],
        "shares": list(manifest.calibration.exit_shares),
    }


def crossing(manifest: Manifest, cut: int) -> list[TensorSpec]:
    """The tensors that are there behind a segment, and are used later."""
    later = {spec.name for segment in manifest.segments[cut + 1 :] for spec in segment.inputs}
    known = [*manifest.inputs, *(spec for segment in manifest.segments[: cut + 1] for spec in segment.outputs)]
    return [spec for spec in known if spec.name in later]


def bytes_of(spec: TensorSpec) -> int:
    """Of one sample."""
    return prod(spec.shape) * np.dtype(spec.dtype).itemsize


def parity(bundle: Path, network: nn.Module, dataset: Dataset, feed: Feed) -> dict[str, Any]:
    """The bundle against the torch network on the first samples: logits, and exits where no score is near a threshold.

    Args:
        bundle: Run by ONNX Runtime.
        network: Gives a tuple of logits.
        dataset: Samples as the bundle takes them.
        feed: The same as the network takes them.
    """
    opened = Bundle.open(bundle)
    cascade, policy = Cascade.open(opened), opened.policy()
    found: list[NDArray[np.float32]] = []
    answered: list[NDArray[np.int64]] = []
    wanted: list[NDArray[np.float32]] = []
    network.eval()
    batches = zip(dataset.batches(feed.batch), feed.in_order(), strict=True)
    while sum(len(part) for part in answered) < min(PARITY_SAMPLES, len(dataset)):
        arrays, tensors = next(batches)
        found.append(cascade.logits(arrays))
        answered.append(cascade.run(arrays).exit)
        with torch.no_grad():
            wanted.append(np.stack([logits.numpy() for logits in network(*tensors.inputs)]))
    here, there = np.concatenate(found, axis=1), np.concatenate(wanted, axis=1)
    clear = away_from_thresholds(policy, there)
    same = np.concatenate(answered) == replay(policy, list(there)).exit
    return {
        "samples": here.shape[1],
        "largest_difference": float((np.abs(here - there).max(axis=(1, 2)) / np.abs(there).max(axis=(1, 2))).max()),
        "near_a_threshold": int((~clear).sum()),
        "equal_exits_elsewhere": float(same[clear].mean()),
    }


def away_from_thresholds(policy: Policy, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) whether no early exit's score is within 1e-4 of its threshold."""
    thresholds = np.asarray(policy.thresholds, dtype=np.float64)[:-1, None]
    return np.asarray((np.abs(judge(policy, list(logits)).score[:-1] - thresholds) > NEAR).all(axis=0))


def accuracies(cached: CachedLogits, cascade: Cascade) -> list[dict[str, float]]:
    """What each exit would be worth, if it answered alone."""
    return [
        {"cost": entry.cost, "accuracy": float((logits.argmax(axis=1) == cached.labels).mean())}
        for entry, logits in zip(cascade.manifest.exits, cached.logits, strict=True)
    ]


def curve(cascade: Cascade, fitting: CachedLogits, unseen: CachedLogits) -> list[dict[str, Any]]:
    """For each largest loss the policy with the least cost on the calibration split, measured on the test split."""
    costs = np.array([entry.cost for entry in cascade.manifest.exits])
    full = float((unseen.logits[-1].argmax(axis=1) == unseen.labels).mean())
    points = []
    for limit in LIMITS:
        try:
            found = tune_all(AUTO, fitting.logits, fitting.labels, costs, MaxDrop(limit), method="joint")[0]
        except UnreachableError:
            continue
        answers = replay(found.policy, list(unseen.logits))
        accuracy = float((answers.label == unseen.labels).mean())
        shares = answers.shares(len(costs))
        points.append(
            {
                "limit": limit,
                "policy": found.policy.name,
                "accuracy": accuracy,
                "loss": full - accuracy,
                "cost": float(shares @ costs),
                "shares": shares.tolist(),
            }
        )
    return points


def markdown(document: Mapping[str, Any]) -> str:
    """The exits and the curve as tables."""
    rows = ["| exit | cost | accuracy |", "|---|---|---|"]
    rows += [f"| {k} | {row['cost']:.3f} | {row['accuracy']:.4f} |" for k, row in enumerate(document["exits"])]
    return "\n".join([*rows, "", curve_table(document["curve"])])


def curve_table(points: Sequence[Mapping[str, Any]]) -> str:
    """One row a point."""
    rows = ["| allowed | policy | loss | cost |", "|---|---|---|---|"]
    rows += [f"| {p['limit']:g} | {p['policy']} | {p['loss']:.4f} | {p['cost']:.3f} |" for p in points]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
