"""Exits trained together with their model, against the small model and against the cascade of both.

Trains ResNet-56 and its exits jointly for a few epochs, starting from trained weights, exports the run as `train`
proposes, which keeps the exits that pay on the calibration split, and measures it beside what a user could do instead:
ResNet-20 alone, and the cascade of ResNet-20 and ResNet-56. Losses count from the accuracy of ResNet-56 as it came.
The exported run is compared with the torch network on 2,048 test pictures.
Writes `benchmarks/results/joint.json`.

    python benchmarks/joint.py --models MODELS --data DATA

MODELS holds resnet56-cifar10.onnx, resnet56-cifar10.safetensors and resnet20-cifar10.onnx; DATA holds `train`,
`calibration` and `test`: CIFAR-10 (Krizhevsky 2009) saved as JPEG, 45,000, 5,000 and 5,000 pictures of 32 × 32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import backbones
import click
import torch
import trained_heads
from by_design import PICTURES, parity
from label_free import cost_at
from trained_heads import LOSSES, NORMALISATION

from edgeexit.training import Feed, load_run, restore
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import open_for
from edgeexit_runtime.machine import describe_machine

HERE = Path(__file__).parent
TRAINING = (
    *("--self-distillation", "0.5", "--temperature", "2"),
    *("--mode", "joint", "--augment", "crop", "--optimiser", "sgd", "--rate", "0.1", "--backbone-rate", "0.8"),
    *("--weight-decay", "5e-4", "--patience", "0"),
)


@click.command()
@click.option("--models", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--epochs", default=8, show_default=True)
@click.option("--blocks", default="4,11,15,20", show_default=True, help="Exits stand behind these of 27 blocks.")
@click.option("--head", default="conv:2x,4x/256", show_default=True)
@click.option("--loss-weights", default="0.3,0.2,0.2,0.15,0.15", show_default=True, help="One more than blocks.")
@click.option("--threads", default=2, show_default=True, help="Of torch.")
@click.option(
    "--run", "kept", type=click.Path(path_type=Path), help="Keep the run in this folder, or take it from there."
)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "joint.json")
def main(
    models: Path,
    data: Path,
    epochs: int,
    blocks: str,
    head: str,
    loss_weights: str,
    threads: int,
    kept: Path | None,
    out: Path,
) -> None:
    """Train, export, measure, and write one JSON document."""
    small, big = models / "resnet20-cifar10.onnx", models / "resnet56-cifar10.onnx"
    os.environ["RESNET56"] = str(models / "resnet56-cifar10.safetensors")  # for backbones:resnet56
    with tempfile.TemporaryDirectory() as folder:
        rivals = exported([str(small), str(big)], data, ("--exits", "0", "--max-drop", "0.05"), Path(folder) / "pair")
        rows, reference = rivalry(rivals, data)
        run = kept or Path(folder) / "run"
        flags = (*TRAINING, "--loss-weights", loss_weights, "--head", head, "--epochs", str(epochs))
        seconds = trained(data, run, blocks, (*flags, "--threads", str(threads)))
        bundle = exported([str(run)], data, (), Path(folder) / "joint")
        rows["exits trained jointly"] = {
            "training_s": seconds,
            "threads": threads,
            "trained_exits": [int(block) for block in blocks.split(",")],
            "flags": list(flags),
            **measured(bundle, data, reference),
        }
        document = {"machine": describe_machine(), "reference_accuracy": reference, "rows": rows}
        out.write_text(json.dumps(document, indent=1) + "\n")
        document["parity"] = as_in_torch(run, bundle, data)
        out.write_text(json.dumps(document, indent=1) + "\n")
    for name, row in rows.items():
        click.echo(f"{name}: {row['size_bytes']:,} bytes, right {row['accuracy']}, {row['cost_at_loss']}")


def trained(data: Path, run: Path, blocks: str, flags: Sequence[str]) -> float:
    """Train the run if it is not there; how many seconds it took."""
    if not (run / "training.json").exists():
        places = ",".join(f"blocks.{block}" for block in blocks.split(","))  # blocks.0 is the stem
        splits = ("--data", data / "train", "--validation", data / "calibration")
        edgeexit("train", "backbones:resnet56", *splits, *NORMALISATION, *flags, "--at", places, "-o", run)
    return round(json.loads((run / "training.json").read_text())["seconds"])


def as_in_torch(run: Path, bundle: Path, data: Path) -> dict[str, Any]:
    """The bundle against the network that was trained."""
    network = restore(load_run(run), backbones.resnet56(), torch.zeros(2, 3, 32, 32))
    manifest = Cascade.open(bundle).manifest
    kept = {entry.name for entry in manifest.exits}
    network = network.without([name for name in network.at if name not in kept])
    test = open_for(manifest, data / "test", "data")
    return parity(bundle, network, test, Feed.from_dataset(test, PICTURES))


def exported(sources: Sequence[str], data: Path, flags: Sequence[str], bundle: Path) -> Path:
    """Run `edgeexit export`; thresholds come later."""
    splits = ("--data", data / "train", "--calibration", data / "calibration")
    edgeexit("export", *sources, *splits, *NORMALISATION, *flags, "-o", bundle)
    return bundle


def edgeexit(*arguments: object) -> None:
    """Run a command of EdgeExit with this folder in its path."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, "-m", "edgeexit", *map(str, arguments)], check=True, env=os.environ | {"PYTHONPATH": path}
    )


def rivalry(bundle: Path, data: Path) -> tuple[dict[str, Any], float]:
    """Rows of the small model alone and of the cascade of both, and the big model's accuracy."""
    pair = measured(bundle, data, None)
    reference = pair["accuracy"][-1]
    small = {
        "size_bytes": (bundle / "segments" / "00.onnx").stat().st_size,
        "accuracy": pair["accuracy"][:1],
        "costs": pair["costs"][:1],
        "cost_at_loss": {
            f"{loss:g}": pair["costs"][0] if reference - pair["accuracy"][0] <= loss else None for loss in LOSSES
        },
    }
    return {"ResNet-20 alone": small, "ResNet-20, then ResNet-56": pair}, reference


def measured(bundle: Path, data: Path, reference: float | None) -> dict[str, Any]:
    """Each exit's accuracy on the test split, and the curve of cost and loss, counted from the reference."""
    row = trained_heads.measured(bundle, data, "data")
    lost = 0.0 if reference is None else reference - row["accuracy"][-1]
    points = [point | {"drop": round(point["drop"] + lost, 4)} for point in row["curve"]]
    size_bytes = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    costs = {f"{loss:g}": cost_at(loss, points) for loss in LOSSES}
    return {**row, "size_bytes": size_bytes, "curve": points, "cost_at_loss": costs}


if __name__ == "__main__":
    main()
