"""The zoo is what it says: its models are valid, run with any batch, and treat samples apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from zoo import ZOO, Specimen, needs, specimen  # noqa: E402


def fetch(name: str) -> Specimen:
    for package in needs(name):
        pytest.importorskip(package)
    return specimen(name)


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its declared batch sizes removed."""
    for value in [*model.graph.input, *model.graph.output]:
        if value.name not in {tensor.name for tensor in model.graph.initializer}:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def run(found: Specimen, rows: slice) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(freed(found.model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(found.outputs, {name: array[rows] for name, array in found.inputs.items()})


@pytest.mark.parametrize("name", ZOO)
def test_a_model_gives_logits_for_every_exit_and_sample(name: str) -> None:
    found = fetch(name)
    samples = 4 if ZOO[name].any_batch else 1
    shapes = [logits.shape for logits in run(found, slice(samples))]
    assert shapes == [(samples, found.classes)] * ZOO[name].exits


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.any_batch])
def test_a_sample_s_logits_are_its_own_unless_the_table_says_otherwise(name: str) -> None:
    found = fetch(name)
    together = run(found, slice(4))
    alone = [run(found, slice(index, index + 1)) for index in range(4)]
    apart = [np.concatenate(rows) for rows in zip(*alone, strict=True)]
    tolerance = 1e-2 if "float16" in name else 1e-5
    close = all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(together, apart, strict=True))
    assert close == ZOO[name].independent


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if not entry.any_batch])
def test_a_batch_baked_in_refuses_another(name: str) -> None:
    with pytest.raises(Exception, match=r"(?i)reshape"):
        run(fetch(name), slice(4))


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.any_batch])
def test_samples_differ_in_their_logits(name: str) -> None:
    assert all(logits.std(axis=0).max() > 0.01 for logits in run(fetch(name), slice(4)))


@pytest.mark.parametrize("name", [name for name in ZOO if not name.endswith("/dynamo")])
def test_building_twice_gives_the_same_weights(name: str) -> None:
    weights = [
        [tensor.SerializeToString() for tensor in found.model.graph.initializer]
        for found in (fetch(name), ZOO[name].build())
    ]
    assert weights[0] == weights[1]
