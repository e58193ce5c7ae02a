"""A small network with three exits, trained on scikit-learn's digits: the whole road in one go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import progress, say
from edgeexit.errors import MissingPartError, UsageError
from edgeexit_exporters.device_side import run_command
from edgeexit_exporters.exporting import export
from edgeexit_exporters.settings import ExportSettings

if TYPE_CHECKING:
    import torch

__all__ = ["Quickstart", "run_quickstart"]

_EPOCHS = 30
_BATCH = 64
_SPLIT = (1000, 1400)  # training | calibration | test
_LOSS_WEIGHTS = (0.5, 0.75, 1.0)
_MAX_DROP = 0.01


@dataclass(frozen=True)
class Quickstart:
    """What came out: the bundle, the data it was measured on, `verify`'s and `eval`'s documents."""

    bundle: Path
    test_data: Path
    verified: dict[str, Any]
    evaluation: dict[str, Any]


def run_quickstart(folder: Path, *, seed: int = 0) -> Quickstart:
    """Train, export, verify and measure; files go to `folder`.

    Raises:
        MissingPartError: torch, scikit-learn or the runtime is not installed.
        UsageError: The folder cannot be made.
        BackendError: The runtime failed.
    """
    try:
        import sklearn.datasets
        import torch

        metadata.version("edgeexit-runtime")  # its commands are run below, in another process
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise MissingPartError.package("the quickstart", "edgeexit-exporters[quickstart]") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("the folder cannot be made", got=f"{folder}: {error.strerror}") from error
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    files = _save_splits(folder, images, labels, seed)
    model_file = folder / "digits.onnx"
    _write_onnx(_train(files["train"], seed, torch), model_file, torch)
    bundle = folder / "digits.eexit"
    settings = ExportSettings(max_drop=_MAX_DROP, seed=seed)
    export([str(model_file)], files["train"], bundle, settings, calibration=files["calibration"])
    say("verifying and measuring in a process without torch and onnx")
    verified = json.loads(run_command("verify", bundle, "--json"))
    evaluation = json.loads(run_command("eval", bundle, "--data", files["test"], "--json"))
    return Quickstart(bundle, files["test"], verified, evaluation)


def _save_splits(folder: Path, images: NDArray[Any], labels: NDArray[Any], seed: int) -> dict[str, Path]:
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = labels[order].astype(np.int64)
    files = {}
    for name, rows in zip(("train", "calibration", "test"), np.split(np.arange(len(x)), _SPLIT), strict=True):
        files[name] = folder / f"digits-{name}.npz"
        np.savez(files[name], x=x[rows], y=y[rows])
    return files


def _network(torch: Any) -> torch.nn.Module:
    nn = torch.nn

    def block(inputs: int, outputs: int, stride: int) -> torch.nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def head(channels: int, grid: int) -> torch.nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(channels * grid**2, 10))

    class Digits(nn.Module):  # type: ignore[misc, name-defined]
        """Three stages, a classifier behind each."""

        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(
                [
                    nn.Sequential(block(1, 8, 1), block(8, 16, 2)),
                    nn.Sequential(block(16, 24, 1), block(24, 24, 1)),
                    nn.Sequential(block(24, 48, 1), block(48, 48, 1)),
                ]
            )
            self.heads = nn.ModuleList([head(16, 1), head(24, 2), head(48, 2)])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = []
            for stage, classify in zip(self.stages, self.heads, strict=True):
                x = stage(x)
                logits.append(classify(x))
            return tuple(logits)

    return Digits()


def _train(data: Path, seed: int, torch: Any) -> torch.nn.Module:
    """Train all exits together: the sum of their cross-entropies, later exits weighing more."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # on a network this small, threads cost more than they bring
    arrays = np.load(data)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    model = _network(torch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=_EPOCHS * -(-len(x) // _BATCH))
    with progress("training three exits", _EPOCHS) as advance:
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                losses = [torch.nn.functional.cross_entropy(logits, y[rows]) for logits in model(x[rows])]
                loss = sum(weight * part for weight, part in zip(_LOSS_WEIGHTS, losses, strict=True))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            advance(1)
    return model.eval()


def _write_onnx(model: torch.nn.Module, path: Path, torch: Any) -> None:
    from edgeexit_exporters.sources import export_module

    names = ["early", "middle", "last"]
    proto = export_module("the network", model, (torch.zeros(2, 1, 8, 8),), ["x"], torch, output_names=names)
    path.write_bytes(proto.SerializeToString())
