"""What do exits save on CIFAR-10, and at what loss?

Exports ResNet-56, ResNet-20 and the cascade of both on JPEG pictures of CIFAR-10, measures each bundle on
test pictures, times the ResNet-56 bundle, and writes `benchmarks/results/cifar10.json`.

    python benchmarks/cifar10.py --models MODELS --data DATA

MODELS holds resnet56-cifar10.onnx and resnet20-cifar10.onnx: inputs (batch, 3, 32, 32) float32,
normalised with mean 0.485, 0.456, 0.406 and standard deviation 0.229, 0.224, 0.225; any such models do.
DATA holds `train`, `calibration` and `test`, each a folder with one subfolder of 32 × 32 pictures per
class: CIFAR-10 (Krizhevsky 2009) saved as JPEG, 45,000, 5,000 and 5,000 pictures.
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

NORMALISATION = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
RESNET56, RESNET20 = "resnet56-cifar10.onnx", "resnet20-cifar10.onnx"
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "resnet56-gaussian": ((RESNET56,), ("--exits", "auto", "--head", "gaussian", "--max-drop", "0.01")),
    "resnet56-class-means": ((RESNET56,), ("--exits", "auto", "--head", "class-means", "--max-drop", "0.01")),
    "resnet20-gaussian": ((RESNET20,), ("--exits", "auto", "--head", "gaussian", "--max-drop", "0.01")),
    "cascade": ((RESNET20, RESNET56), ("--exits", "0", "--max-drop", "0.005")),
    "cascade-with-exits": ((RESNET20, RESNET56), ("--exits", "auto", "--head", "gaussian", "--max-drop", "0.005")),
}
TIMED = "resnet56-gaussian"
EVALUATED = ("samples", "accuracy", "full_accuracy", "accuracy_drop", "mean_cost", "mean_ms", "full_ms", "exits")


@click.command()
@click.option("--models", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--only", multiple=True, type=click.Choice(list(RUNS)), help="Only these; others keep their results.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "cifar10.json")
def main(models: Path, data: Path, only: tuple[str, ...], out: Path) -> None:
    """Export, measure, time and write one JSON document."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    runs = document.setdefault("runs", {})
    with tempfile.TemporaryDirectory() as folder:
        for name in only or RUNS:
            sources, flags = RUNS[name]
            bundle = Path(folder) / name
            runs[name] = measure(name, [str(models / source) for source in sources], flags, data, bundle)
            if name == TIMED:
                timing = edgeexit("bench", bundle, "--data", data / "test", "--batch", "1,8,64", "--threads", "1")[0]
                document["machine"] = timing["machine"]
                document["bench"] = {key: timing[key] for key in ("full_from", "chain_includes_heads", "rows")}
    document["runs"] = {name: runs[name] for name in RUNS if name in runs}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def measure(name: str, sources: list[str], flags: tuple[str, ...], data: Path, bundle: Path) -> dict[str, Any]:
    """Export and evaluate once."""
    print(name, file=sys.stderr)
    splits = ("--data", data / "train", "--calibration", data / "calibration")
    exported, seconds, peak_mb = edgeexit("export", *sources, *splits, *NORMALISATION, *flags, "-o", bundle)
    evaluated = edgeexit("eval", bundle, "--data", data / "test")[0]
    return {
        "flags": list(flags),
        "export_s": round(seconds, 1),
        "export_peak_mb": round(peak_mb),
        "size_bytes": exported["size_bytes"],
        "policy": exported["policy"],
        "calibration": exported["calibration"],
        "test": {key: evaluated[key] for key in EVALUATED},
    }


def edgeexit(*arguments: object) -> tuple[dict[str, Any], float, float]:
    """Run a command with --json: its document, the seconds it took and its peak memory in MB."""
    command = [sys.executable, "-m", "edgeexit", *map(str, arguments), "--json"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(output), time.perf_counter() - start, usage.ru_maxrss / 1000


if __name__ == "__main__":
    main()
