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

__all__ = ["Prepared", "open_splits", "prepare"]

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
            source.model, found, mean=settings.mean, std=settings.std, resize=settings.resize, size=settings.size
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
    fitting = open_data(data, prepared.inputs, prepared.preprocessing)
    if fitting.labels is None or len(fitting.class_names) > classes:
        raise DataError(f"{data} has more classes than the model", got=len(fitting.class_names), expected=classes)
    if prepared.preprocessing.kind == "array":
        fitting = open_data(data, prepared.inputs, prepared.preprocessing, [str(i) for i in range(classes)])
    elif len(fitting.class_names) != classes:
        raise DataError(
            f"{data} has fewer classes than the model",
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
        return fitting.split(_HELD_OUT, settings.seed)
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
