"""Bring source models and data together: what the bundle takes, and what its heads are fitted on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data import Dataset, Survey, open_data, survey
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit_exporters.analysis import Analysis, analyse
from edgeexit_exporters.preprocess import bake, plan_preprocessing
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.sources import Source, is_torch_source, load_onnx, load_torch

__all__ = ["Prepared", "check_places", "open_splits", "prepare"]

_PROBE_ROWS = 3
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Prepared:
    """Source models, analysed, with the preprocessing in front.

    Attributes:
        analysis: The graph.
        inputs: What the bundle takes.
        preprocessing: How samples become inputs.
        sources: The models as they came.
    """

    analysis: Analysis
    inputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    sources: tuple[Source, ...]


def prepare(sources: Sequence[str], data: str | Path, settings: ExportSettings) -> Prepared:
    """Load the models, put the preprocessing in front, make one graph and measure it."""
    found = survey(data)
    loaded, preprocessing, inputs = [], None, None
    for name in sources:
        source = load_torch(name, _examples(found, data, settings)) if is_torch_source(name) else load_onnx(name)
        preprocessing, wanted = plan_preprocessing(
            source.model, found, data, mean=settings.mean, std=settings.std, resize=settings.resize, size=settings.size
        )
        inputs = inputs or wanted
        model = bake(source.model, preprocessing, wanted)
        loaded.append(Source(source.name, model, source.sha256))
    if preprocessing is None or inputs is None:
        raise UsageError("no model was given", expected="at least one .onnx file or module:function")
    first = _first_rows(open_data(data, inputs, preprocessing), _PROBE_ROWS)
    names = [Path(source.name).stem if source.sha256 else source.name for source in loaded]
    analysis = analyse([source.model for source in loaded], _distinct(names), first)
    return Prepared(analysis, inputs, preprocessing, tuple(loaded))


def check_places(output: str | Path, *data: str | Path | None) -> None:
    """Refuse a bundle inside an image folder, where it would be taken for a class the next time.

    Raises:
        UsageError: `output` lies in one of `data`.
    """
    wanted = Path(output).resolve()
    for folder in data:
        if folder is not None and Path(folder).is_dir() and wanted.is_relative_to(Path(folder).resolve()):
            raise UsageError(
                "the bundle would lie inside the data", got=str(output), expected=f"a path outside {folder}"
            )


def open_splits(
    prepared: Prepared, data: str | Path, calibration: str | Path | None, settings: ExportSettings
) -> tuple[Dataset, Dataset]:
    """The data that heads are fitted on, and the split that thresholds are fitted on.

    Raises:
        DataError: They do not fit the model.
        UsageError: Both are the same data.
    """
    if calibration is not None and os.path.realpath(calibration) == os.path.realpath(data):
        raise UsageError(
            "thresholds must not be fitted on the data that the heads are fitted on",
            got=f"--data and --calibration are both {data}",
            remedy="leave --calibration out: a part of the data is then held out",
        )
    classes = prepared.analysis.classes
    arrays = prepared.preprocessing.kind == "array"
    numbers = [str(i) for i in range(classes)] if arrays else None
    fitting = open_data(data, prepared.inputs, prepared.preprocessing, numbers)
    if len(fitting.class_names) != classes:
        raise DataError(
            f"{data} has {'more' if len(fitting.class_names) > classes else 'fewer'} classes than the model",
            got=f"{len(fitting.class_names)}: {', '.join(fitting.class_names[:10])}",
            expected=f"{classes} subfolders, sorted as the model's classes are",
        )
    if settings.labels == "data" and fitting.labels is not None:
        missing = np.setdiff1d(np.arange(classes), fitting.labels)
        if missing.size:
            raise DataError(
                f"{data} has classes without a sample",
                got=f"none for {', '.join(fitting.class_names[i] for i in missing[:10])}",
                expected="samples of every class",
                remedy="add samples, or fit with --labels model",
            )
    if calibration is None:
        rest, held = fitting.split(_HELD_OUT, settings.seed)
        if not len(held):
            raise DataError(
                f"{data} is too small to hold a part of it out",
                got=f"{len(fitting)} samples in {classes} classes",
                expected="at least two samples of a class, and better hundreds",
                remedy="add samples, or give others with --calibration",
            )
        return rest, held
    return fitting, open_data(calibration, prepared.inputs, prepared.preprocessing, fitting.class_names)


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
    rows = _first_rows(open_data(data, specs, Preprocessing(kind="array")), 2)
    return rows["x"] if list(rows) == ["x"] else rows


def _traced_dtype(kind: str, settings: ExportSettings) -> str:
    return "float32" if kind == "float64" or settings.mean is not None else kind


def _first_rows(data: Dataset, rows: int) -> dict[str, NDArray[Any]]:
    """The first rows, repeated where there are fewer."""
    order = np.arange(rows) % len(data)
    return next(iter(data.batches(rows, order)))


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}#{i}" for i, name in enumerate(names)]
