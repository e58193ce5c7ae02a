"""What does a search for the architecture of exit heads bring, on a frozen ONNX model?

At evenly spread exits heads are searched on recorded activations, with no label. Then the head found and the one that
training takes without a search are trained alike, from the start. Thresholds come from the calibration
pictures, labelled by the model; everything is measured on test pictures with their labels: each exit alone, and the
cascade of all exits, with thresholds fitted jointly. Writes `benchmarks/results/head_search.json`.

    python benchmarks/head_search.py --model MODELS/resnet56-cifar10.onnx --data DATA

For MODELS and DATA see `benchmarks/cifar10.py`; random parts of the pictures are used. A run with `--keep FOLDER` that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature, softmax
from edgeexit.data import Dataset, open_data
from edgeexit.thresholds import Material, MaxDrop, exits_taken, fit_thresholds, measure
from edgeexit.training.frozen import train_heads
from edgeexit.training.heads import HeadSpec, build_head, head_macs
from edgeexit.training.search import (
    Recording,
    SearchPlace,
    SearchResult,
    SearchSettings,
    SearchTrial,
    record,
    search_heads,
)
from edgeexit.training.search.measuring import answers
from edgeexit.training.settings import TrainSettings
from edgeexit_exporters.activations import GraphActivations, GraphFeed
from edgeexit_exporters.exits import choose_cuts, place
from edgeexit_exporters.loading import Prepared, prepare
from edgeexit_exporters.selection import cascade_costs
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime.machine import describe_machine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Logits = NDArray[np.float32]


@click.command()
@click.option("--model", required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--exits", default=4, show_default=True)
@click.option("--samples", default=5000, show_default=True, help="Training pictures to learn from.")
@click.option("--held", default=1500, show_default=True, help="More of them, by which the search judges.")
@click.option("--fitting", default=3000, show_default=True, help="Calibration pictures, for thresholds.")
@click.option("--measuring", default=5000, show_default=True, help="Test pictures.")
@click.option("--trials", default=16, show_default=True)
@click.option("--search-epochs", default=0, show_default=True, help="Of a trial; 0: as many as of the final training.")
@click.option("--epochs", default=8, show_default=True, help="Of the final training.")
@click.option("--max-drop", default=0.01, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keeps activations, search and logits.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "head_search.json")
def main(
    model: str, data: Path, exits: int, samples: int, held: int, fitting: int, measuring: int, trials: int,
    search_epochs: int, epochs: int, max_drop: float, threads: int, keep: Path | None, out: Path,
) -> None:  # fmt: skip
    """Search, train both, measure, and write one JSON document."""
    torch.set_num_threads(threads)
    if keep is not None:
        keep.mkdir(exist_ok=True)
    bench = Bench(model, data, exits, threads, max_drop, keep)
    seen, unseen = bench.recording("train", 0, samples, seed=0), bench.recording("train", samples, held)
    calibration, test = bench.recording("calibration", 0, fitting), bench.recording("test", 0, measuring)
    training = TrainSettings(mode="distilled", epochs=epochs, seed=0, device="cpu", threads=threads)
    plan = SearchSettings(trials=trials, epochs=search_epochs, max_drop=max_drop)
    results = search_heads(seen, unseen, bench.places, bench.whole, bench.classes, plan, training=training, folder=keep)
    rows: dict[str, list[dict[str, Any]]] = {}
    cascades = {}
    for name, specs in {
        "default": [result.trials[0].spec for result in results],
        "found": [result.spec for result in results],
    }.items():
        trained = [bench.trained(k, spec, (seen, unseen, calibration, test), training) for k, spec in enumerate(specs)]
        rows[name], cascades[name] = bench.measured(trained, calibration, test)
    document = {
        "machine": describe_machine(),
        "model": Path(model).name,
        "pictures": {"train": samples, "held": held, "calibration": fitting, "test": measuring},
        "trials": trials, "search_epochs": search_epochs, "epochs": epochs, "max_drop": max_drop, "threads": threads,
        "exits": [
            {
                "name": result.name, "backbone": bench.places[k].macs_before / bench.whole, **told(result),
                **{name: measured[k] for name, measured in rows.items()},
            }
            for k, result in enumerate(results)
        ],
        "cascade": cascades,
    }  # fmt: skip
    out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(json.dumps(cascades))


class Bench:
    """The model, cut at evenly spread places."""

    def __init__(self, model: str, data: Path, exits: int, threads: int, max_drop: float, keep: Path | None) -> None:
        self.data, self.max_drop, self.keep = data, max_drop, keep
        settings = ExportSettings(labels="data", mean=MEAN, std=STD, threads=threads)
        self.prepared: Prepared = prepare([model], data / "train", settings)
        analysis = self.prepared.analysis
        cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages, str(exits))
        places = [place(analysis.graph, analysis.infos, cut) for cut in cuts]
        self.source = GraphActivations(analysis, places, threads=threads)
        self.whole, self.classes = float(analysis.whole_macs), analysis.classes
        self.places = [
            SearchPlace(cut.after, where.info.shape, where.channels_first, float(cut.macs_before))
            for cut, where in zip(cuts, places, strict=True)
        ]

    def recording(self, split: str, start: int, number: int, *, seed: int | None = None) -> Recording:
        """Activations of random pictures; with a seed in a new order each epoch."""
        name = f"{split}-{start}-{number}"
        kept = self._kept(name)
        if kept is None:
            dataset: Dataset = open_data(self.data / split, self.prepared.inputs, self.prepared.preprocessing)
            part = dataset.take(np.random.default_rng(0).permutation(len(dataset))[start : start + number])
            found = record(GraphFeed(self.source, part, part.labels, 128), 4 * 2**30, what=f"activations of {split}")
            assert found.labels is not None
            values = {f"value{k}": value.astype(np.float16) for k, value in enumerate(found.values)}
            kept = self._keep(name, teacher=found.teacher, labels=found.labels, **values)
        each = [kept[f"value{k}"] for k in range(len(self.places))]
        labels = None if split == "train" else kept["labels"]
        return Recording(each, kept["teacher"], labels, None, batch=128, seed=seed)

    def trained(
        self, k: int, spec: HeadSpec, feeds: tuple[Recording, ...], training: TrainSettings
    ) -> tuple[float, Logits, Logits]:
        """MACs of a head of this architecture, and its logits on the last two feeds when it has learnt from the first.

        All are trained alike, on the model's answers.
        """
        name, where = f"exit{k}-" + "".join(c if c.isalnum() else "-" for c in str(spec)), self.places[k]
        kept = self._kept(name)
        if kept is None:
            head = build_head(spec, where.shape, self.classes, channels_first=where.channels_first, seed=0)
            seen, unseen, calibration, test = (feed.only(k) for feed in feeds)
            train_heads([head], seen, unseen, training, names=[where.name])
            macs = np.array(head_macs(head, where.shape))
            kept = self._keep(name, macs=macs, fitting=answers(head, calibration), unseen=answers(head, test))
        return float(kept["macs"]), kept["fitting"], kept["unseen"]

    def measured(
        self, trained: Sequence[tuple[float, Logits, Logits]], calibration: Recording, test: Recording
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Each exit alone and the cascade of all: thresholds of the calibration pictures, measured on test."""
        macs = np.array([*(own for own, _, _ in trained), 0.0])
        backbone = np.array([*(where.macs_before for where in self.places), self.whole])
        logits = [*((fitting, unseen) for _, fitting, unseen in trained), (calibration.teacher, test.teacher)]
        known = calibration.teacher.argmax(axis=1).astype(np.int64)
        temperatures = [np.float32(fit_temperature(fitting, known)) for fitting, _ in logits]
        fitting = [softmax(pair[0] / t) for pair, t in zip(logits, temperatures, strict=True)]
        unseen = [softmax(pair[1] / t) for pair, t in zip(logits, temperatures, strict=True)]
        assert test.labels is not None
        found = []
        for k in range(len(trained)):
            alone = [k, len(trained)]
            costs = cascade_costs(backbone[alone], macs[alone])
            agreement = float((unseen[k].argmax(1) == unseen[-1].argmax(1)).mean())
            taken = self._taken("tolerance", fitting, unseen, alone, costs, known, test.labels)
            found.append({"macs": float(macs[k]), "agreement": agreement, **taken})
        every = list(range(len(logits)))
        costs = cascade_costs(backbone, macs)
        return found, self._taken("joint", fitting, unseen, every, costs, known, test.labels)

    def _kept(self, name: str) -> dict[str, NDArray[Any]] | None:
        path = None if self.keep is None else self.keep / f"{name}.npz"
        return dict(np.load(path)) if path is not None and path.exists() else None

    def _keep(self, name: str, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if self.keep is not None:
            half = self.keep / f"{name}.half.npz"
            np.savez(half, **arrays)
            half.replace(self.keep / f"{name}.npz")
        return arrays

    def _taken(
        self, method: str, fitting: Sequence[Logits], unseen: Sequence[Logits], rows: Sequence[int],
        costs: NDArray[np.float64], known: NDArray[np.int64], labels: NDArray[np.int64],
    ) -> dict[str, Any]:  # fmt: skip
        thresholds = fit_thresholds(method, material(fitting, rows, known, costs), MaxDrop(self.max_drop))
        tested = material(unseen, rows, labels, costs)
        outcome = measure(tested, thresholds)
        taken = exits_taken(tested.score, thresholds)
        return {
            "mean_cost": outcome.mean_cost / self.whole,
            "drop": outcome.loss,
            "shares": [float((taken == k).mean()) for k in range(len(rows))],
        }


def material(
    probabilities: Sequence[Logits], rows: Sequence[int], labels: NDArray[np.int64], costs: NDArray[np.float64]
) -> Material:
    """What exits would do, by the maximum probability."""
    score = np.stack([probabilities[k].max(axis=1) for k in rows])
    correct = np.stack([probabilities[k].argmax(axis=1) == labels for k in rows])
    return Material(score, correct, correct[-1], costs)


def told(result: SearchResult) -> dict[str, Any]:
    """A search in numbers; the accuracies are those on samples held out, against the model."""
    first = result.trials[0]
    cheaper = [trial for trial in result.trials if trial.finished and trial.macs <= first.macs]
    return {
        "first": row(first),
        "best": row(next(trial for trial in result.trials if trial.spec == result.spec)),
        "most_accurate_at_no_more_macs": row(max(cheaper, key=lambda trial: trial.accuracy)),
        "front": [row(trial) for trial in result.front],
        "finished": sum(trial.finished for trial in result.trials),
        "given_up": sum(trial.epochs > 0 and not trial.finished for trial in result.trials),
        "untrained": sum(not trial.epochs for trial in result.trials),
    }


def row(trial: SearchTrial) -> dict[str, Any]:
    """A trial."""
    return {
        "spec": str(trial.spec), "accuracy": trial.accuracy, "macs": trial.macs, "saving": trial.saving,
        "hit_rate": trial.hit_rate, "worth": trial.worth,
    }  # fmt: skip


if __name__ == "__main__":
    main()
