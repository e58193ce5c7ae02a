"""What does a cascade save on an NVIDIA GPU, under ONNX Runtime's CUDA provider, and are its answers the CPU's?

On a machine with an NVIDIA GPU, in an environment with edgeexit-runtime:

    pip uninstall -y onnxruntime
    pip install 'onnxruntime-gpu[cuda,cudnn]' onnx
    python benchmarks/cuda.py resnet56.eexit mobilenet.eexit --data cifar10/test

It installs nothing itself, and takes about five minutes a bundle. --data gives the samples (a folder with a
subfolder per class, or an .npz); without it they are the bundle's golden samples, over and over. It writes
`benchmarks/results/cuda.json`: for each bundle

parity   every exit's logits against the CPU backend's, at batch 1 and at the largest batch, and how many samples
         leave at the same exit with the same label
rows     milliseconds a batch for batches of 1, 2, 4 … 128, every contender in turn, each with sessions of its own:
             whole      the model merged from the segments (needs onnx)
             chain      all segments without their exits' heads and with no policy
             cascade    as it comes: what pays is learned while it runs
             nobody     the same with thresholds at which nobody leaves
             carrying   never compacts: who has left is carried on
             compacting always compacts, at batch sizes that change rarely
             exact      always compacts, and every batch is as large as it has to be
         and what the cascade decided: how batches were cut, and the mean number of rows of every segment
shapes   for every segment: the time at a constant batch size, and at two sizes in turn; what compaction takes

`--device cpu` runs the same on the CPU provider, to try the script: such a result is not one to keep.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, say
from edgeexit.data import open_data
from edgeexit.errors import EdgeExitError
from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.cuda import CudaBackend, Device
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.costmodel import CostModel, ObservedCosts, WholeBatches
from edgeexit_runtime.evaluation import choose_samples
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.merge import onnx_is_here, whole_model
from edgeexit_runtime.verification import verify
from edgeexit_runtime.wiring import wire

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], object]

LEAST_ROUNDS = 5


class Carrying(WholeBatches):
    """Compaction never pays."""

    def saved_s(self, index: int, rows: int, staying: int) -> float:
        return 0.0

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        return 1.0


class Recorded(ObservedCosts):
    """The costs of a cascade as it comes, and what was decided by them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.forget()

    def forget(self) -> None:
        self.cuts: Counter[str] = Counter()
        self.rows: dict[int, int] = {}

    def sizes(self, n: int) -> list[int]:
        cut = super().sizes(n)
        self.cuts["+".join(map(str, cut)) if len(cut) < 9 else f"{len(cut)} parts"] += 1
        return cut

    def ran(self, index: int, rows: int, seconds: float) -> None:
        self.rows[index] = self.rows.get(index, 0) + rows
        super().ran(index, rows, seconds)


class Segments:
    """A bundle's segments, or its whole model, opened in sessions of their own."""

    def __init__(
        self, bundle: Bundle, device: Device, *, steady: bool = True, whole: bool = False, heads: bool = True
    ) -> None:
        self.manifest, self.policy = bundle.manifest, bundle.policy()
        self.backend = CudaBackend(device, steady=steady)
        self.entries = bundle.manifest.segments
        graphs = [bundle.segment(k) for k in range(len(self.entries))]
        if whole:
            merged = whole_model(graphs, self.entries)
            specs = {spec.name: spec for entry in self.entries for spec in entry.policy_inputs}
            left = tuple(specs[name] for name in sorted(merged.policy_inputs))
            inputs = bundle.manifest.inputs
            last = self.entries[-1]
            graphs = [merged.data]
            self.entries = (msgspec.structs.replace(last, inputs=inputs, policy_inputs=left, outputs=()),)
        if not heads:
            last = len(graphs) - 1
            kept = [k for k, entry in enumerate(self.entries) if entry.outputs or k == last]
            self.entries = tuple(self.entries[k] for k in kept)
            graphs = [graphs[k] for k in kept]
        self.opened = [
            (self.backend.open if heads or k == len(graphs) - 1 else self.backend.open_headless)(
                data, entry, bundle.exits, SessionSettings()
            )
            for k, (data, entry) in enumerate(zip(graphs, self.entries, strict=True))
        ]
        self._lanes: dict[int, Any] = {}

    def chain(self, batch: Arrays) -> NDArray[np.float32]:
        """Every segment on every sample; the last one's logits."""
        arrays = [batch[spec.name] for spec in self.manifest.inputs]
        n = len(arrays[0])
        if n not in self._lanes:
            inputs, classes = self.manifest.inputs, len(self.manifest.labels)
            self._lanes[n] = self.backend.lane(self.opened, self.entries, inputs, classes, n)
        lane = self._lanes[n]
        lane.start(arrays)
        for k in range(len(self.opened)):
            logits = lane.run(k)
        lane.stop()
        return np.asarray(logits)

    def cascade(self, costs: CostModel) -> Cascade:
        return Cascade(self.manifest, self.policy, self.backend, self.opened, costs=costs)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True), help="Samples; the bundle's golden ones without it.")
@click.option("--batch", default="1,2,4,8,16,32,64,128", show_default=True, help="Batch sizes.")
@click.option("--pool", default=512, show_default=True, help="Samples in a round, for batches of more than one.")
@click.option("--seconds", default=10.0, show_default=True, help="For each batch size.")
@click.option("--warm", default=64, show_default=True, help="Batches of each contender that are not counted.")
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cpu"]), help="cpu tries the script.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "cuda.json")
def main(
    bundles: tuple[Path, ...],
    data: str | None,
    batch: str,
    pool: int,
    seconds: float,
    warm: int,
    device: Literal["cuda", "cpu"],
    out: Path,
) -> None:
    """Measure every bundle, and write one JSON document."""
    where, sizes = Device(device), [int(word) for word in batch.split(",")]
    where.check()
    document: dict[str, Any] = {
        "machine": {
            **describe_machine(),
            "onnxruntime": ort.__version__,
            "gpu": asdict(check_driver()) if device == "cuda" else None,
            "providers": where.providers,
        },
        "samples_from": "golden samples" if data is None else "data",
        "bundles": {},
    }
    for path in bundles:
        say(f"{path}: parity")
        bundle = Bundle.open(path)
        samples = _samples(bundle, data, max(pool, *sizes))
        document["bundles"][path.stem] = {
            "parity": parity(bundle, where, samples, max(sizes)),
            "rows": [rows(bundle, where, samples, size, max(pool, size), seconds, warm) for size in sizes],
            "shapes": shapes(bundle, where, samples, max(sizes)),
        }
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    emit_json(document)


def parity(bundle: Bundle, device: Device, samples: Arrays, largest: int) -> dict[str, Any]:
    """Against the CPU backend."""
    reference, found = Cascade.open(bundle), Cascade.open(bundle, backend=CudaBackend(device))
    names = [entry.name for entry in bundle.manifest.exits]
    report: dict[str, Any] = {"samples": _length(samples)}
    try:
        report["verify"] = asdict(verify(bundle, found))
    except EdgeExitError as error:
        report["verify"] = str(error)
    for size in (1, largest):
        part = {name: array[: 64 if size == 1 else None] for name, array in samples.items()}
        batches = list(_batches(part, size))
        expected, got = (np.concatenate([c.logits(b) for b in batches], axis=1) for c in (reference, found))
        scale = np.abs(expected).max(axis=(1, 2))
        answers = [(reference.run(b), found.run(b)) for b in batches]
        report[f"batch {size}"] = {
            "largest_difference": dict(
                zip(names, (np.abs(expected - got).max(axis=(1, 2)) / scale).tolist(), strict=True)
            ),
            "same_exit": float(np.mean(np.concatenate([a.exit == b.exit for a, b in answers]))),
            "same_label": float(np.mean(np.concatenate([a.label == b.label for a, b in answers]))),
        }
    return report


def rows(
    bundle: Bundle, device: Device, samples: Arrays, size: int, pool: int, seconds: float, warm: int
) -> dict[str, Any]:
    """Times of all contenders at one batch size, round by round in an order that rotates."""
    say(f"batch {size}")
    count = len(bundle.manifest.segments)
    recorded = Recorded(bundle.manifest, count)
    cascade = Segments(bundle, device).cascade(recorded)
    nobody = Segments(bundle, device).cascade(ObservedCosts(bundle.manifest, count))
    never = (np.inf,) * count
    runs: dict[str, Run] = {
        "chain": Segments(bundle, device, heads=False).chain,
        "cascade": cascade.run,
        "nobody": nobody.with_policy(nobody.policy.with_thresholds(never)).run,
    }
    if onnx_is_here():
        runs["whole"] = Segments(bundle, device, whole=True).chain
    if size > 1:
        runs["carrying"] = Segments(bundle, device).cascade(Carrying()).run
        runs["compacting"] = Segments(bundle, device).cascade(WholeBatches()).run
        runs["exact"] = Segments(bundle, device, steady=False).cascade(WholeBatches()).run
    batches = list(_batches(samples, size))[: max(1, pool // size if size > 1 else 64)]
    for run in runs.values():
        for i in range(max(warm, len(batches))):
            run(batches[i % len(batches)])
    exits = np.concatenate([cascade.run(batch).exit for batch in batches])
    recorded.forget()
    spent = _rounds(runs, batches, seconds)
    ms = {name: 1e3 * float(np.median(times)) / len(batches) for name, times in spent.items()}
    over = {name: float(np.median(times / spent["whole"])) for name, times in spent.items()} if "whole" in spent else {}
    runs_of_cascade = len(spent["cascade"]) * len(batches)
    return {
        "batch": size,
        "rounds": len(spent["cascade"]),
        "ms": ms,
        "over_whole": over,
        "exit_shares": (np.bincount(exits, minlength=count) / len(exits)).tolist(),
        "cuts": dict(recorded.cuts.most_common(3)),
        "rows_run": [recorded.rows.get(k, 0) / runs_of_cascade for k in range(count)] if size > 1 else None,
        "rows_needed": [float((exits >= k).mean()) * size for k in range(count)],
    }


def _rounds(runs: Mapping[str, Run], batches: Sequence[Arrays], seconds: float) -> dict[str, NDArray[np.float64]]:
    spent: dict[str, list[float]] = {name: [] for name in runs}
    names, number, start_s = list(runs), 0, time.perf_counter()
    while number < LEAST_ROUNDS or time.perf_counter() - start_s < seconds:
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            before_s = time.perf_counter()
            for batch in batches:
                runs[name](batch)
            spent[name].append(time.perf_counter() - before_s)
        number += 1
    return {name: np.array(times) for name, times in spent.items()}


def shapes(bundle: Bundle, device: Device, samples: Arrays, size: int, repeats: int = 20) -> list[dict[str, Any]]:
    """What a change of batch size costs a segment, and what compaction to half costs behind it."""
    say("shapes")
    segments = Segments(bundle, device, steady=False)
    backend, steps = segments.backend, wire(bundle.manifest.inputs, segments.entries)
    tensors = [backend.to_device(samples[spec.name][:size]) for spec in bundle.manifest.inputs]
    half, report = np.arange(0, size, 2), []
    for k, (segment, step) in enumerate(zip(segments.opened, steps, strict=True)):
        inputs = step.inputs(tensors)
        fewer = [backend.take(tensor, np.arange(size - 1)) for tensor in inputs]
        constant = [_ms(lambda s=segment, i=inputs: s.run(i)) for _ in range(repeats)]
        in_turn = [_ms(lambda s=segment, i=i: s.run(i)) for _ in range(repeats // 2) for i in (fewer, inputs)]
        tensors = step.carry(tensors, segment.run(inputs)[0])
        kept = [_ms(lambda t=tensors: [backend.take(tensor, half) for tensor in t]) for _ in range(repeats)]
        report.append(
            {
                "segment": bundle.manifest.exits[k].name,
                "constant_ms": float(np.median(constant)),
                "in_turn_ms": float(np.median(in_turn)),
                "compaction_ms": float(np.median(kept)) if tensors else None,
            }
        )
    return report


def _ms(run: Callable[[], object]) -> float:
    before_s = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - before_s)


def _samples(bundle: Bundle, data: str | None, count: int) -> dict[str, NDArray[Any]]:
    manifest = bundle.manifest
    if data is not None:
        dataset = open_data(data, manifest.inputs, manifest.preprocessing, manifest.labels)
        chosen = choose_samples(dataset, count)
        samples = next(dataset.batches(len(chosen), chosen))
    else:
        samples = {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
    picked = np.random.default_rng(0).permutation(np.resize(np.arange(_length(samples)), count))
    return {name: np.ascontiguousarray(array[picked]) for name, array in samples.items()}


def _batches(samples: Arrays, size: int) -> list[Arrays]:
    return [
        {name: array[start : start + size] for name, array in samples.items()}
        for start in range(0, _length(samples) - size + 1, size)
    ]


def _length(samples: Arrays) -> int:
    return len(next(iter(samples.values())))


if __name__ == "__main__":
    main()
