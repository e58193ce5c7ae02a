"""The ONNX Runtime backend: what it opens, and what it refuses and how."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import BackendError, BundleError, UsageError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends import SessionSettings, load_backend
from edgeexit_runtime.backends.base import Segment
from runtime.cascades import F32, float_spec, forward, tiny_parts, weights

onnx = pytest.importorskip("onnx")

BACKEND = load_backend("onnxruntime")
MANIFEST, CONTENTS = tiny_parts()


def entry(**changes: Any) -> SegmentEntry:
    return msgspec.structs.replace(MANIFEST.segments[0], **changes)


def open_segment(data: bytes = CONTENTS["segments/00.onnx"], **changes: Any) -> Segment:
    return BACKEND.open(data, entry(**changes), weights(), SessionSettings())


def altered(alter: Any) -> bytes:
    """The first segment after a change to its graph."""
    model = onnx.load_model_from_string(CONTENTS["segments/00.onnx"])
    alter(model)
    data: bytes = model.SerializeToString()
    return data


def samples(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((n, 4)).astype(F32)


@pytest.mark.parametrize("n", [1, 2, 64])
def test_a_segment_gives_its_boundary_and_its_logits(n: int) -> None:
    (h0,), logits = open_segment().run([samples(n)])
    assert h0.shape == (n, 8)
    np.testing.assert_allclose(logits, forward(samples(n))[0], rtol=1e-5, atol=1e-5)


def test_policy_tensors_can_be_replaced_without_another_graph() -> None:
    tensors = {**weights(), "exit.0.bias": np.array([0, 100, 0], F32)}
    segment = BACKEND.open(CONTENTS["segments/00.onnx"], entry(), tensors, SessionSettings())
    assert segment.run([samples(5)])[1].argmax(axis=1).tolist() == [1] * 5


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", CONTENTS["segments/00.onnx"][:200], b"\x08" * 100, "ü".encode("latin-1") * 40],
)
def test_bytes_that_are_no_graph_are_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"segments/00.onnx is not a graph"):
        open_segment(data)


def test_mutated_bytes_raise_nothing_but_errors_of_ours() -> None:
    data = CONTENTS["segments/00.onnx"]
    random = np.random.default_rng(0)
    for _ in range(200):
        mutated = bytearray(data)
        mutated[random.integers(len(data))] = random.integers(256)
        with suppress(BundleError, BackendError):
            open_segment(bytes(mutated))


def test_a_newer_opset_is_a_backend_error_that_says_what_to_do() -> None:
    with pytest.raises(BackendError, match=r"too old for segments/00\.onnx") as caught:
        open_segment(altered(lambda model: setattr(model.opset_import[0], "version", 99)))
    assert caught.value.remedy == "pip install --upgrade onnxruntime"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ()},
        {"inputs": (float_spec("y", 4),)},
        {"inputs": (float_spec("x", 4), float_spec("mask", 4))},
        {"inputs": (float_spec("x", 5),)},
        {"inputs": (float_spec("x", 4, 1),)},
        {"inputs": (TensorSpec(name="x", dtype="uint8", shape=(4,)),)},
        {"policy_inputs": ()},
        {"outputs": (float_spec("h9", 8),)},
        {"outputs": (float_spec("h0", 9),)},
        {"outputs": (TensorSpec(name="h0", dtype="float16", shape=(8,)),)},
        {"logits": "other"},
    ],
)
def test_a_graph_that_contradicts_the_manifest_is_a_bundle_error(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"segments/00\.onnx"):
        open_segment(**changes)


def test_a_fixed_batch_size_is_a_bundle_error() -> None:
    def fix(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(BundleError, match="fixed batch size"):
        open_segment(altered(fix))


@pytest.mark.parametrize("tensors", [{}, {"exit.0.weight": np.zeros((8, 2), F32)}, {"exit.0.weight": np.zeros((8, 3))}])
def test_a_policy_tensor_that_does_not_fit_is_a_bundle_error(tensors: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(BundleError, match=r"exits\.safetensors does not hold"):
        BACKEND.open(CONTENTS["segments/00.onnx"], entry(), tensors, SessionSettings())


def test_a_failure_while_running_is_a_backend_error() -> None:
    with pytest.raises(BackendError, match=r"failed while it ran segments/00\.onnx"):
        open_segment().run([np.zeros((2, 5), F32)])


@pytest.mark.parametrize("rows", [[0], [3], [0, 1], [1, 2, 3], [0, 2], [0, 3], [0, 1, 2, 3]])
def test_take_keeps_those_rows_as_one_block_of_memory(rows: list[int]) -> None:
    array = samples(4)
    taken = BACKEND.take(array, np.array(rows))
    np.testing.assert_array_equal(taken, array[rows])
    assert taken.flags.c_contiguous


def test_neighbouring_rows_are_not_copied() -> None:
    array = samples(4)
    assert np.shares_memory(BACKEND.take(array, np.array([1, 2])), array)


def test_a_segment_can_be_run_from_several_threads() -> None:
    segment = open_segment()
    batches = [samples(n) for n in range(1, 40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: segment.run([batch])[1], batches))
    for batch, logits in zip(batches, results, strict=True):
        np.testing.assert_allclose(logits, forward(batch)[0], rtol=1e-5, atol=1e-5)


def test_no_threads_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="threads"):
        SessionSettings(threads=0)
