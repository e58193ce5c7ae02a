"""What do exits save of a recommendation network, which has no pictures and few multiplications?

    python benchmarks/tabular.py --out OUT

Clicks are made up, with a seed (`benchmarks/dlrm.py`). Two DLRMs get exits behind the numbers, the small tables, the
large tables and the first layer of the top MLP: one whose exits and backbone are trained together, and one that is
trained alone first and then frozen, its exits trained on its answers, with no label. Each is exported and verified,
and held against the torch network. Then, for a ladder of largest losses, thresholds are fitted on calibration rows
and the bundle answers test rows, on the device side. Writes `benchmarks/results/tabular.json`.

An embedding costs no multiplication, so its price is counted apart: the bytes of embeddings that a row reads, and
the bytes of the tables that a device must hold to answer so many rows on its own. The network is small enough that
the time of a check counts more than that of the multiplications; `bench` says how much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import torch
from by_design import described, exported, gathered, parity, timed
from dlrm import DLRM, EXITS, LARGE, SMALL, WIDTH, World, clicks
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeexit.data import Dataset
from edgeexit.errors import UnreachableError
from edgeexit.policies import AUTO
from edgeexit.thresholds import MaxDrop
from edgeexit.training import Feed, MultiExit, TrainSettings, train
from edgeexit.tuning import tune_all
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import open_for
from edgeexit_runtime.machine import describe_machine

ROWS = {"train": 240_000, "held": 10_000, "calibration": 20_000, "test": 40_000}
LIMITS = (0.001, 0.0025, 0.005, 0.01, 0.02)
BATCH = 4096
READ = {"small": 4 * WIDTH * len(SMALL), "large": 4 * WIDTH * len(LARGE)}
"""Bytes of embeddings that a row reads."""
BACKBONE = TrainSettings(mode="joint", epochs=2, batch=512, rate=2e-3, backbone_rate=1.0, precision="fp32")
WAYS = {
    "joint": BACKBONE,
    "distilled": TrainSettings(mode="distilled", epochs=2, batch=512, rate=5e-3, precision="fp32"),
}

Arrays = dict[str, Any]


class Plain(nn.Module):
    """A network with a tuple of one logits tensor, as training takes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, dense: Tensor, small: Tensor, large: Tensor) -> tuple[Tensor]:
        return (self.network(dense, small, large),)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--rows", default=ROWS["train"], show_default=True, help="To train on.")
@click.option("--threads", default=1, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "tabular.json")
def main(out: Path, rows: int, threads: int, results: Path) -> None:
    """Train, export, verify, measure, and write one JSON document."""
    torch.set_num_threads(threads)
    data, best = made(out, ROWS | {"train": rows})
    networks = {"joint": network(), "distilled": network(taught(data, threads))}
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "rows": ROWS | {"train": rows},
        "network": {"exits": EXITS, "embedding_bytes_read": READ, "table_bytes": table_bytes()},
        "best_possible": best,
        "ways": {},
    }
    for way, exits in networks.items():
        settings = msgspec.structs.replace(WAYS[way], threads=threads)
        result = train(exits, feed(data["train"]), feed(data["held"]), settings)
        save_file(exits.state_dict(), out / f"{way}.safetensors")
        flags = ["--exits", ",".join(EXITS), "--max-drop", "0.005", "--threads", str(threads)]
        bundle = exported(f"tabular:{way}", out / "train.npz", out / "calibration.npz", out / way, *flags)
        document["ways"][way] = {
            "settings": msgspec.to_builtins(settings),
            "training": msgspec.to_builtins(result),
            **measured(bundle, exits, out),
        }
    results.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(document))


def made(out: Path, rows: Mapping[str, int]) -> tuple[dict[str, Arrays], dict[str, float]]:
    """The splits, those for the bundle written to OUT, and what no network can beat on the test split."""
    out.mkdir(parents=True, exist_ok=True)
    world = World()
    data: dict[str, Arrays] = {}
    best: dict[str, float] = {}
    for seed, (split, number) in enumerate(rows.items()):
        data[split], chance = clicks(number, seed, world)
        np.savez(out / f"{split}.npz", **data[split])
        if split == "test":
            right = (chance > 0.5) == data[split]["y"]
            best = {"accuracy": float(right.mean()), "auc": auc(chance, data[split]["y"])}
    return data, best


def network(backbone: DLRM | None = None) -> MultiExit:
    """A DLRM with exits; one with random weights, always the same, if None is given."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = DLRM() if backbone is None else backbone
    example = {name: torch.from_numpy(array) for name, array in clicks(2, 0, World())[0].items() if name != "y"}
    return MultiExit.attach(backbone, at=EXITS, example=example)


def joint() -> MultiExit:
    """With the weights in the current folder."""
    return with_weights("joint.safetensors")


def distilled() -> MultiExit:
    """With the weights in the current folder."""
    return with_weights("distilled.safetensors")


def with_weights(path: str) -> MultiExit:
    """The network with its weights."""
    exits = network()
    exits.load_state_dict(load_file(path))
    return exits


def taught(data: Mapping[str, Arrays], threads: int) -> DLRM:
    """A plain DLRM, trained."""
    torch.manual_seed(0)
    backbone = DLRM()
    settings = msgspec.structs.replace(BACKBONE, threads=threads)
    train(Plain(backbone), feed(data["train"]), feed(data["held"]), settings)
    return backbone


def feed(arrays: Arrays) -> Feed:
    """Rows and their labels, for training."""
    return Feed.from_arrays({name: array for name, array in arrays.items() if name != "y"}, arrays["y"])


def measured(bundle: Path, exits: MultiExit, out: Path) -> dict[str, Any]:
    """All that is asked of a bundle."""
    cascade = Cascade.open(bundle)
    test = open_for(cascade.manifest, out / "test.npz", "data")
    return {
        "bundle": described(bundle),
        "parity": parity(bundle, exits, test, feed({name: array for name, array in np.load(out / "test.npz").items()})),
        "exits": alone(cascade, out / "test.npz"),
        "curve": curve(cascade, out),
        "bench": timed(bundle, out / "test.npz", "1,64,1024"),
    }


def alone(cascade: Cascade, test: Path) -> list[dict[str, float]]:
    """What each exit would be worth, if it answered every row."""
    cached = gathered(cascade, test)
    rows = []
    for k, (entry, logits) in enumerate(zip(cascade.manifest.exits, cached.logits, strict=True)):
        row = {"cost": entry.cost, "accuracy": float((logits.argmax(axis=1) == cached.labels).mean())}
        rows.append(row | {"auc": auc(margin(logits), cached.labels), "embedding_bytes": int(read()[k])})
    return rows


def curve(cascade: Cascade, out: Path) -> list[dict[str, Any]]:
    """For each largest loss of accuracy, the cheapest policy on the calibration rows, run on the test rows."""
    costs = np.array([entry.cost for entry in cascade.manifest.exits])
    fitting = gathered(cascade, out / "calibration.npz")
    test = open_for(cascade.manifest, out / "test.npz", "data")
    assert test.labels is not None
    whole = gathered(cascade, out / "test.npz").logits[-1]
    full = {"accuracy": float((whole.argmax(axis=1) == test.labels).mean()), "auc": auc(margin(whole), test.labels)}
    points = []
    for limit in LIMITS:
        try:
            found = tune_all(AUTO, fitting.logits, fitting.labels, costs, MaxDrop(limit), method="joint")[0]
        except UnreachableError:
            continue
        given = answers(cascade.with_policy(found.policy), test)
        shares = np.bincount(given["exit"], minlength=len(costs)) / len(test)
        points.append(
            {
                "limit": limit,
                "policy": found.policy.name,
                "loss": full["accuracy"] - float((given["label"] == test.labels).mean()),
                "auc": auc(given["click"], test.labels),
                "auc_of_whole": full["auc"],
                "cost": float(shares @ costs),
                "embedding_bytes": float(shares @ read()),
                "without_large_tables": float(shares[: EXITS.index("large")].sum()),
                "shares": shares.tolist(),
            }
        )
    return points


def answers(cascade: Cascade, dataset: Dataset) -> Arrays:
    """The device's answers: `exit`, `label`, and `click`, the chance of a click; (N,) each."""
    found = [cascade.run(batch) for batch in dataset.batches(BATCH)]
    label, probability = (np.concatenate([getattr(a, what) for a in found]) for what in ("label", "probability"))
    click_chance = np.where(label == 1, probability, 1 - probability)
    return {"exit": np.concatenate([a.exit for a in found]), "label": label, "click": click_chance}


def read() -> NDArray[np.int64]:
    """(E,) bytes of embeddings that a row has read when an exit answers; the whole model is the last."""
    return np.cumsum([READ.get(name, 0) for name in (*EXITS, "whole model")])


def table_bytes() -> dict[str, int]:
    """Of the small and the large tables."""
    return {"small": 4 * WIDTH * sum(SMALL), "large": 4 * WIDTH * sum(LARGE)}


def margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) log-odds of a click."""
    return logits[:, 1] - logits[:, 0]


def auc(scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    """The chance that a row with a click has a higher score than one without; equal scores count one half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    clicked = int(labels.sum())
    above = ranks[inverse][labels == 1].sum() - clicked * (clicked + 1) / 2
    return float(above / (clicked * (len(labels) - clicked)))


def markdown(document: Mapping[str, Any]) -> str:
    """The exits and the curve of each way, as tables."""
    rows = []
    for way, found in document["ways"].items():
        rows += [f"**{way}**", "", "| exit | MACs | bytes read | accuracy | AUC |", "|---|---|---|---|---|"]
        rows += [
            f"| {name} | {row['cost']:.3f} | {row['embedding_bytes']} | {row['accuracy']:.4f} | {row['auc']:.4f} |"
            for name, row in zip((*EXITS, "whole model"), found["exits"], strict=True)
        ]
        rows += ["", "| allowed | loss | AUC | MACs | bytes read | without large tables |", "|---|---|---|---|---|---|"]
        rows += [
            f"| {p['limit']:g} | {p['loss']:.4f} | {p['auc']:.4f} of {p['auc_of_whole']:.4f} | {p['cost']:.3f} "
            f"| {p['embedding_bytes']:.0f} | {p['without_large_tables']:.3f} |"
            for p in found["curve"]
        ]
        rows += [""]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
