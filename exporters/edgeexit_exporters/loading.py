"""Bring source models and data together: what the bundle takes, and what its heads are fitted on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import say
from edgeexit.data import Dataset, Survey, open_data, open_files, survey
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit_exporters.analysis import Analysis, analyse
from edgeexit_exporters.attached import Attached
from edgeexit_exporters.preprocess import bake, plan_preprocessing
from edgeexit_exporters.runs import is_run, load_run_source, open_run, with_run
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.sources import Source, is_torch_source, load_onnx, load_torch

__all__ = ["HELD_OUT", "Prepared", "check_held", "check_places", "open_splits", "prepare"]

_PROBE_ROWS = 3
HELD_OUT = 0.1
"""The share of the data that is held out where none are given."""


@dataclass(frozen=True)
class Prepared:
    """Source models, analysed, with the preprocessing in front.

    Attributes:
        analysis: The graph.
        inputs: What the bundle takes.
        preprocessing: How samples become inputs.
        sources: The models as they came.
        class_names: As the source knows them; None where it does not.
        attached: Exits that the source brings as heads of their own, cheapest first.
    """

    analysis: Analysis
    inputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    sources: tuple[Source, ...]
    class_names: tuple[str, ...] | None = None
    attached: tuple[Attached, ...] = ()


def prepare(sources: Sequence[str], data: str | Path, settings: ExportSettings) -> Prepared:
    """Load the models, put the preprocessing in front, make one graph and measure it."""
    found = survey(data, labelled=settings.labels == "data")
    runs = {name: open_run(name) for name in sources if is_run(name)}
    for run in runs.values():
        settings = with_run(settings, run, found)
    loaded, preprocessing, inputs = [], None, None
    for name in sources:
        if name in runs:
            source = load_run_source(runs[name], _examples(found, data, settings))
        else:
            source = load_torch(name, _examples(found, data, settings)) if is_torch_source(name) else load_onnx(name)
        preprocessing, wanted = plan_preprocessing(
            source.model,
            found,
            data,
            mean=settings.mean,
            std=settings.std,
            resize=settings.resize or "exact",
            size=settings.size,
        )
        inputs = inputs or wanted
        model = bake(source.model, preprocessing, wanted)
        loaded.append(replace(source, model=model))
    if len(loaded) > 1 and any(source.attached for source in loaded):
        raise UsageError(
            "a model with exits attached is a cascade by itself",
            got=f"{len(loaded)} models",
            expected="one source",
            remedy="export it alone, or give the backbone instead",
        )
    if loaded and loaded[0].attached and settings.head is not None:
        raise UsageError(
            f"{sources[0]} brings its exit heads, and those are used",
            got=f"options for {settings.head.kind} heads",
            expected="no --head, --epochs, --exit-head, --search, --means-kib or --updatable",
            remedy="leave them out; to fit others, export the backbone instead",
        )
    if preprocessing is None or inputs is None:
        raise UsageError("no model was given", expected="at least one .onnx file or module:function")
    first = _first_rows(_samples(data, inputs, preprocessing, settings), _PROBE_ROWS)
    names = [Path(source.name).stem if source.sha256 else source.name for source in loaded]
    analysis = analyse([source.model for source in loaded], _distinct(names), first)
    return Prepared(
        analysis, inputs, preprocessing, tuple(loaded), class_names=loaded[0].class_names, attached=loaded[0].attached
    )


def check_places(output: str | Path, *data: str | Path | None, what: str = "bundle") -> None:
    """Refuse a bundle or run inside an image folder, where it would be taken for a class the next time.

    Args:
        output: Where it is to be written.
        data: Folders of pictures, and other data.
        what: What is written, for the message.

    Raises:
        UsageError: `output` lies in one of `data`.
    """
    wanted = Path(output).resolve()
    for folder in data:
        if folder is not None and Path(folder).is_dir() and wanted.is_relative_to(Path(folder).resolve()):
            raise UsageError(
                f"the {what} would lie inside the data", got=str(output), expected=f"a path outside {folder}"
            )


def check_held(held: Dataset, whole: Dataset, path: str | Path, option: str) -> None:
    """Refuse an empty part of the data that was held out.

    Args:
        held: That part.
        whole: All of the data.
        path: Where they are.
        option: With which others may be given.

    Raises:
        DataError: It is empty.
    """
    if not len(held):
        classes = f" in {len(whole.class_names)} classes" if whole.class_names else ""
        raise DataError(
            f"{path} is too small to hold a part of it out",
            got=f"{len(whole)} samples{classes}",
            expected="at least two samples of a class, and better hundreds",
            remedy=f"add samples, or give others with {option}",
        )


def open_splits(
    prepared: Prepared, data: str | Path, calibration: str | Path | None, settings: ExportSettings
) -> tuple[Dataset, Dataset]:
    """The data that heads are fitted on, and the split that thresholds are fitted on.

    With the model's own answers as labels neither needs any: labels that are there are not looked at.

    Raises:
        DataError: They do not fit the model.
        UsageError: Both are the same data, or a training run held none of its data out.
    """
    if calibration is not None and os.path.realpath(calibration) == os.path.realpath(data):
        raise UsageError(
            "thresholds must not be fitted on the data that the heads are fitted on",
            got=f"--data and --calibration are both {data}",
            remedy="leave --calibration out: a part of the data is then held out",
        )
    fitting = _open(prepared, data, settings)
    if calibration is None:
        rest, held = _hold_out(prepared, fitting, data, settings)
        check_held(held, fitting, data, "--calibration")
        return rest, held
    return fitting, _open(prepared, calibration, settings, fitting.class_names)


def _hold_out(
    prepared: Prepared, fitting: Dataset, path: str | Path, settings: ExportSettings
) -> tuple[Dataset, Dataset]:
    """What is left, and a tenth that nothing was fitted on: of a training run's data, the tenth that it held out."""
    first = prepared.sources[0]
    training = first.training
    if training is None:
        if prepared.attached or (len(prepared.sources) == 1 and len(prepared.analysis.own) > 1):
            say(
                f"note: {first.name} brings exits, and thresholds are fitted on a tenth of {path}: if the exits were "
                "trained on these samples, thresholds come out too low. Name others with --calibration"
            )
        return fitting.split(HELD_OUT, settings.seed)
    if not first.held_out:
        raise UsageError(
            "the exits may have been trained on all of these data"
            if first.held_out is None
            else "the exits were trained on all of their data: no part of them was held out for the thresholds",
            got=f"a run that {'does not say what it held out' if first.held_out is None else 'had --validation'}, "
            f"and --data {path}",
            expected="data that the run was not trained on",
            remedy="--calibration DIR, such as what --validation was",
        )
    labels = fitting.labels if training.needs_labels else None
    if training.needs_labels and labels is None:
        with contextlib.suppress(DataError):  # without labels these are not the data of the run
            labels = open_data(path, prepared.inputs, prepared.preprocessing).labels
    rest, held = replace(fitting, labels=labels).split(HELD_OUT, training.seed)
    return fitting.take(rest.rows), fitting.take(held.rows)


def _open(
    prepared: Prepared, path: str | Path, settings: ExportSettings, class_names: tuple[str, ...] | None = None
) -> Dataset:
    """Data for the model; with `class_names` of the fitting data, the calibration split."""
    if settings.labels == "data":
        if class_names is not None:
            return open_data(path, prepared.inputs, prepared.preprocessing, class_names)
        return _open_labelled(prepared, path)
    dataset = open_files([path], prepared.inputs, prepared.preprocessing)
    return replace(dataset, class_names=class_names or _class_names(prepared, path))


def _open_labelled(prepared: Prepared, path: str | Path) -> Dataset:
    """Data with labels of all of the model's classes, and no others."""
    classes = prepared.analysis.classes
    numbers = prepared.class_names
    if prepared.preprocessing.kind == "array":
        numbers = numbers or tuple(map(str, range(classes)))
    dataset = open_data(path, prepared.inputs, prepared.preprocessing, numbers)
    if len(dataset.class_names) != classes:
        raise DataError(
            f"{path} has {'more' if len(dataset.class_names) > classes else 'fewer'} classes than the model",
            got=f"{len(dataset.class_names)}: {', '.join(dataset.class_names[:10])}",
            expected=f"{classes} subfolders, sorted as the model's classes are",
        )
    missing = np.setdiff1d(np.arange(classes), [] if dataset.labels is None else dataset.labels)
    if missing.size:
        raise DataError(
            f"{path} has classes without a sample",
            got=f"none for {', '.join(dataset.class_names[i] for i in missing[:10])}",
            expected="samples of every class",
            remedy="add samples, or fit with --labels model",
        )
    return dataset


def _class_names(prepared: Prepared, path: str | Path) -> tuple[str, ...]:
    """Names for data without labels: the model's, else the subfolders' if their number fits, else numbers."""
    classes = prepared.analysis.classes
    names = prepared.class_names
    if names is None and prepared.preprocessing.kind == "image":
        names = survey(path, labelled=False).class_names
    return names if names is not None and len(names) == classes else tuple(map(str, range(classes)))


def _examples(found: Survey, data: str | Path, settings: ExportSettings) -> Any:
    """Example inputs for tracing a torch module, before the bundle's inputs are known."""
    if found.kind == "image":
        height, width = settings.size or found.size or (0, 0)
        channels = 3 if found.mode == "RGB" else 1
        return np.random.default_rng(0).standard_normal((2, channels, height, width)).astype(np.float32)
    specs = tuple(
        TensorSpec(name=name, dtype=_traced_dtype(kind, settings), shape=shape[1:])
        for name, (kind, shape) in found.arrays.items()
        if name != "y"
    )
    if settings.mean is not None:
        return {s.name: np.zeros((2, *s.shape), dtype=np.float32) for s in specs}.get("x")
    rows = _first_rows(_samples(data, specs, Preprocessing(kind="array"), settings), 2)
    return rows["x"] if list(rows) == ["x"] else rows


def _samples(
    path: str | Path, inputs: tuple[TensorSpec, ...], preprocessing: Preprocessing, settings: ExportSettings
) -> Dataset:
    """The data before the number of classes is known; labels that are wanted and missing are found now."""
    if settings.labels == "data":
        return open_data(path, inputs, preprocessing)
    return open_files([path], inputs, preprocessing)


def _traced_dtype(kind: str, settings: ExportSettings) -> str:
    return "float32" if kind == "float64" or settings.mean is not None else kind


def _first_rows(data: Dataset, rows: int) -> dict[str, NDArray[Any]]:
    """The first rows, repeated where there are fewer."""
    order = np.arange(rows) % len(data)
    return next(iter(data.batches(rows, order)))


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}#{i}" for i, name in enumerate(names)]
