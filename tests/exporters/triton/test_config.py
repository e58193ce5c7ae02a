"""config.pbtxt, read as Triton reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import ModelError, UsageError
from edgeexit.manifest import TensorSpec
from edgeexit_exporters.triton import Serving, config_pbtxt

text_format = pytest.importorskip("google.protobuf.text_format")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")

OUTPUT = TensorSpec(name="logits", dtype="float32", shape=(2, 10))
BOUNDARY = TensorSpec(name="relu_8", dtype="float32", shape=(32, 16, 16))


def read(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def config(*inputs: TensorSpec, name: str = "net__from_1", **serving: Any) -> Any:
    return read(config_pbtxt(name, inputs or (BOUNDARY,), OUTPUT, Serving(**serving), bundle="ab12"))


def test_the_model_is_for_the_onnx_runtime_backend() -> None:
    found = config()
    assert (found.name, found.backend, found.default_model_filename) == ("net__from_1", "onnxruntime", "model.onnx")


def test_tensors_are_declared_without_the_batch() -> None:
    found = config(BOUNDARY, TensorSpec(name="mask", dtype="int64", shape=(12,)))
    assert [(t.name, t.data_type, list(t.dims)) for t in found.input] == [
        ("relu_8", model_config_pb2.TYPE_FP32, [32, 16, 16]),
        ("mask", model_config_pb2.TYPE_INT64, [12]),
    ]
    assert [(t.name, t.data_type, list(t.dims)) for t in found.output] == [
        ("logits", model_config_pb2.TYPE_FP32, [2, 10])
    ]
    assert found.max_batch_size == 64


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_every_type_of_tensor_has_its_name(dtype: str) -> None:
    (tensor,) = config(TensorSpec(name="x", dtype=dtype, shape=(3,))).input
    name = {"float": "FP", "uint": "UINT", "int": "INT", "bool": "BOOL"}[dtype.rstrip("0123456789")]
    bits = dtype.removeprefix("float").removeprefix("uint").removeprefix("int").removeprefix("bool")
    assert model_config_pb2.DataType.Name(tensor.data_type) == f"TYPE_{name}{bits}"


def test_requests_are_batched_and_the_queue_has_an_end() -> None:
    found = config(delay_ms=5, max_queue=32, timeout_ms=250).dynamic_batching
    assert found.max_queue_delay_microseconds == 5000
    policy = found.default_queue_policy
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert (policy.default_timeout_microseconds, policy.max_queue_size) == (250_000, 32)
    assert policy.allow_timeout_override


def test_instances_run_where_they_are_asked_to() -> None:
    (group,) = config(instances=3, kind="cpu").instance_group
    assert (group.count, group.kind) == (3, model_config_pb2.ModelInstanceGroup.KIND_CPU)


def test_threads_are_the_backends_parameter() -> None:
    assert config(threads=2).parameters["intra_op_thread_count"].string_value == "2"
    assert "intra_op_thread_count" not in config().parameters


def test_the_bundle_is_a_parameter() -> None:
    assert config().parameters["edgeexit.bundle"].string_value == "ab12"


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_name_of_a_tensor_reads_back(name: str) -> None:
    assert config(TensorSpec(name=name, dtype="float32", shape=(4,))).input[0].name == name


@pytest.mark.parametrize(("dtype", "shape"), [("complex64", (4,)), ("float32", ())])
def test_a_tensor_that_triton_does_not_take_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="Triton takes no tensor"):
        config(TensorSpec(name="x", dtype=dtype, shape=shape))


@pytest.mark.parametrize(
    "changes", [{"max_batch": 0}, {"delay_ms": -1}, {"timeout_ms": 0}, {"instances": 0}, {"payload": "int4"}]
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Serving(**changes)
