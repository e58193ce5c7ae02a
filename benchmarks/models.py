"""Make the models that `benchmarks/speed.py` times, their data, and their bundles.

    python benchmarks/models.py --data MNIST --out OUT
    python benchmarks/models.py --data CIFAR --out OUT --resnet56 WEIGHTS --only resnet56

MNIST and CIFAR hold `train`, `calibration` and `test`, each with one subfolder of pictures per class: MNIST
(LeCun et al. 1998) saved as PNG and CIFAR-10 (Krizhevsky 2009) saved as JPEG, say. OUT gets

    data/{train,calibration,test}   some of the pictures, as many of each class
    resnet18.onnx, mobilenet.onnx   inputs (batch, 3, 224, 224) float32; for pictures scaled to 224 × 224
    resnet56.onnx                   inputs (batch, 3, 32, 32); WEIGHTS is a .safetensors file with the keys
                                    conv1, bn1, layer1.0.conv1, …, linear
    resnet18, mobilenet, resnet56   the bundles, by `edgeexit export` with the flags in EXPORT below

ResNet-18 and MobileNetV3-Small start from random weights with a seed; MobileNetV3-Small is trained once over a
few thousand pictures, a matter of minutes on one core. Then the statistics of batch normalisation are taken from
data, and the last linear layer is fitted in closed form, from the means and the shrunken covariance of the
features. So they are classifiers of an easy task with pictures of 224 × 224, if not good ones: what matters here
is how long they take. Their thresholds are fitted on the whole model's own answers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from networks import BUILDERS, SIZES, Network, load_resnet56, start
from torch import Tensor, nn

from edgeexit.data import Dataset, open_data
from edgeexit.heads import GaussianLearner
from edgeexit.manifest import Preprocessing, TensorSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = {"train": 200, "calibration": 100, "test": 100}  # pictures of each class
SHRINKAGE = 0.1
NORMALISING_PICTURES = 512
BATCH = 64

TRAINING = {"resnet18": 0, "mobilenet": 4800}
"""Pictures to train on, once; a picture takes ResNet-18 a sixth of a second."""
TRAINED_AT_ONCE = 32
RATE = 2e-3

EXPORT = {
    "resnet18": ("--exits", "3", "--labels", "model", "--max-drop", "0.05", "--resize", "crop"),
    "mobilenet": ("--exits", "auto", "--labels", "model", "--max-drop", "0.003", "--resize", "crop"),
    "resnet56": ("--exits", "auto", "--max-drop", "0.01"),
}
NORMALISATION = ("--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)))


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--resnet56", "weights", type=click.Path(exists=True, dir_okay=False), help="Its weights.")
@click.option("--only", multiple=True, type=click.Choice(list(BUILDERS)))
@click.option("--pictures", default=2000, show_default=True, help="To fit the last layers on.")
@click.option("--threads", default=1, show_default=True)
@click.option("--export/--no-export", "export", default=True, help="Whether to make the bundles too.")
def main(
    data: Path, out: Path, weights: str | None, only: tuple[str, ...], pictures: int, threads: int, export: bool
) -> None:
    """Write models, data and bundles."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    some = some_pictures(data, out / "data")
    for name in only or [name for name in BUILDERS if name != "resnet56" or weights]:
        start_s = time.perf_counter()
        if name == "resnet56":
            if weights is None:
                raise click.UsageError("resnet56 needs --resnet56 WEIGHTS")
            network = load_resnet56(BUILDERS[name](), weights).eval()
        else:
            network = fitted(name, data / "train", pictures)
        print(f"{name}: {accuracy(network, name, some / 'test'):.3f} right", file=sys.stderr)
        write_onnx(network, SIZES[name], out / f"{name}.onnx")
        if export:
            splits = data if name == "resnet56" else some
            write_bundle(out / f"{name}.onnx", splits, EXPORT[name], threads, out / name)
        print(f"{name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr)


def some_pictures(data: Path, out: Path) -> Path:
    """Copy pictures of each class, evenly spread over the split, in place of any that are there."""
    shutil.rmtree(out, ignore_errors=True)
    for split, count in SPLITS.items():
        for folder in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            target = out / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for i in np.linspace(0, len(files) - 1, min(count, len(files))).astype(int):
                shutil.copy(files[i], target / files[i].name)
    return out


def fitted(name: str, train: Path, pictures: int) -> Network:
    """A network trained a little, with a fitted last layer."""
    network = start(BUILDERS[name]())
    dataset = shuffled(train, SIZES[name])
    if TRAINING[name]:
        teach(network, dataset.take(np.arange(TRAINING[name])))
    normalise_by(network, dataset.take(np.arange(NORMALISING_PICTURES)))
    last = network.classifier[-1]
    assert isinstance(last, nn.Linear)
    learner = GaussianLearner(last.out_features, last.in_features)
    body = nn.Sequential(network.blocks, *network.classifier[:-1])
    with torch.inference_mode():
        for images, labels in batches(dataset.take(np.arange(pictures))):
            learner.add(body(images).numpy(), labels)
    head = replace(learner.statistics(), shrinkage=SHRINKAGE).head()
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(head["weight"]))
        last.bias.copy_(torch.from_numpy(head["bias"]))
    return network


def teach(network: Network, dataset: Dataset) -> None:
    """One pass of AdamW over the pictures, at a rate that falls to nothing."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    steps = len(dataset) // TRAINED_AT_ONCE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1, pct_start=0.2)
    network.train()
    for i, (images, labels) in enumerate(batches(dataset, TRAINED_AT_ONCE)):
        loss = nn.functional.cross_entropy(network(images), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if i % 10 == 0:
            print(f"step {i} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    network.eval()


def normalise_by(network: Network, dataset: Dataset) -> None:
    """Take the statistics of batch normalisation from data, layer after layer in one pass."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the batches
    network.train()
    with torch.no_grad():
        for images, _ in batches(dataset):
            network.blocks(images)
    network.eval()


def accuracy(network: Network, name: str, folder: Path) -> float:
    """Share of pictures that are told right."""
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches(shuffled(folder, SIZES[name])):
            right += int((network(images).argmax(1).numpy() == labels).sum())
            total += len(labels)
    return right / total


def shuffled(folder: Path, size: tuple[int, int]) -> Dataset:
    """The pictures of a folder, scaled, in an order that is always the same."""
    preprocessing = Preprocessing(kind="image", mode="RGB", size=size, resize="crop")
    spec = TensorSpec(name="image", dtype="uint8", shape=(*size, 3))
    dataset = open_data(folder, [spec], preprocessing)
    return dataset.take(np.random.default_rng(0).permutation(len(dataset)))


def batches(dataset: Dataset, size: int = BATCH) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Normalised pictures (n, 3, height, width) and their labels (n,)."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    start = 0
    for batch in dataset.batches(size):
        images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float().div_(255)
        labels = dataset.labels[start : start + len(images)]
        start += len(images)
        yield ((images - mean) / std).contiguous(), labels


def write_onnx(network: Network, size: tuple[int, int], path: Path) -> None:
    """Write the network with a free batch axis."""
    from edgeexit_exporters.sources import export_module

    model = export_module(path.stem, network, (torch.zeros(2, 3, *size),), ["image"], torch, output_names=["logits"])
    path.write_bytes(model.SerializeToString())


def write_bundle(model: Path, data: Path, flags: tuple[str, ...], threads: int, out: Path) -> None:
    """Run `edgeexit export`, and print what came out."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "edgeexit", "export", str(model), "--data", str(data / "train")]
    command += ["--calibration", str(data / "calibration"), *NORMALISATION, *flags, "--threads", str(threads)]
    output = subprocess.run([*command, "-o", str(out), "--json"], check=True, stdout=subprocess.PIPE).stdout
    print(json.dumps(json.loads(output)["calibration"]), file=sys.stderr)


if __name__ == "__main__":
    main()
