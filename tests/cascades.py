"""Helpers for tests of the exporter: analyse a specimen, put heads on it, split it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit_exporters.analysis import Analysis, analyse
from edgeexit_exporters.cuts import Cut
from edgeexit_exporters.exits import place
from edgeexit_exporters.heads import HEADS, HeadSettings
from edgeexit_exporters.heads.model import model_logits
from edgeexit_exporters.normalise import normalise
from edgeexit_exporters.split import ExitPoint, Segment, split

SMALL = HeadSettings(means_bytes=4096, max_features=96)


def analysed(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> Analysis:
    """A single model, analysed."""
    return analyse([normalise(model)], ["model"], inputs)


def points(analysis: Analysis, cuts: Sequence[Cut], kind: str = "gaussian") -> list[ExitPoint]:
    """Exits with heads fitted on noise after `cuts`, and the model's own."""
    found = []
    for cut in cuts:
        fitter = HEADS[kind](place(analysis.graph, analysis.infos, cut), analysis.classes, SMALL)
        noise = np.random.default_rng(0).normal(size=(8 * analysis.classes, fitter.features.length))
        fitter.add(noise.astype(np.float32), np.arange(len(noise)) % analysis.classes)
        found.append(ExitPoint(cut.after, cut.done, fitter.variants()[0].nodes(f"exit.{cut.after}.")))
    for number, own in enumerate(analysis.own):
        nodes = model_logits(own.tensor, analysis.infos[own.tensor], f"own{number}.")
        found.append(ExitPoint(own.name, own.done(analysis.graph, analysis.stages), nodes))
    return sorted(found, key=lambda point: analysis.spent(point.done))


def segments(analysis: Analysis, cuts: Sequence[Cut], kind: str = "gaussian") -> list[Segment]:
    """The segments of `points`."""
    return split(analysis.graph, analysis.infos, points(analysis, cuts, kind), analysis.classes)


def run(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of a model in ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    running = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, dict(inputs)), strict=True))
