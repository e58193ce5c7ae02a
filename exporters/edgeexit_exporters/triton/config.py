"""config.pbtxt: what Triton is told about a tail, in protobuf's text format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgeexit.errors import ModelError, UsageError
from edgeexit.manifest import TensorSpec
from edgeexit.payload import PRECISIONS

__all__ = ["HEADER", "INSTANCE_KINDS", "InstanceKind", "Serving", "config_pbtxt"]

HEADER = "# Written by EdgeExit."
"""The first line. A model that begins so may be replaced; others stay."""

InstanceKind = Literal["auto", "cpu", "gpu"]
INSTANCE_KINDS: tuple[InstanceKind, ...] = get_args(InstanceKind)

_TYPES = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "int8": "TYPE_INT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "uint8": "TYPE_UINT8",
}


@dataclass(frozen=True)
class Serving:
    """How Triton runs a tail.

    Attributes:
        max_batch: Samples in a batch, at most.
        delay_ms: How long a request may wait for others to share its batch.
        max_queue: Requests that wait, at most; more are refused. 0: no limit.
        timeout_ms: How long a request waits before it is refused. A request may ask for another time.
        instances: Copies of the model that run side by side.
        kind: Where they run; "auto" is the GPU if there is one.
        threads: CPU threads of an operator; 0 leaves it to ONNX Runtime.
        payload: The precision that boundary tensors are sent in: one of `edgeexit.payload.PRECISIONS`.

    Raises:
        UsageError: A value makes no sense.
    """

    max_batch: int = 64
    delay_ms: float = 2.0
    max_queue: int = 256
    timeout_ms: float = 1000.0
    instances: int = 1
    kind: InstanceKind = "auto"
    threads: int = 0
    payload: str = "fp32"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        counts = (self.max_batch - 1, self.max_queue, self.instances - 1, self.threads)
        known = self.kind in INSTANCE_KINDS and self.payload in PRECISIONS
        if not known or min(counts) < 0 or not (self.delay_ms >= 0 and self.timeout_ms > 0):
            raise UsageError("Triton cannot serve like this", got=self)


def config_pbtxt(name: str, inputs: Sequence[TensorSpec], output: TensorSpec, serving: Serving, *, bundle: str) -> str:
    """The configuration of one model on Triton's ONNX Runtime backend.

    Args:
        name: The model's, and its folder's.
        inputs: Without the batch axis.
        output: Likewise.
        serving: How it is run.
        bundle: Which segments these are: `edgeexit.profiles.identity`. Triton hands it out with the configuration.

    Raises:
        ModelError: Triton knows no such tensor.
    """
    tensors = [_tensor("input", spec) for spec in inputs] + [_tensor("output", output)]
    group = f"  {{ count: {serving.instances} kind: KIND_{serving.kind.upper()} }}"
    lines = [
        HEADER,
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {serving.max_batch}",
        *tensors,
        f"instance_group [\n{group}\n]",
        "dynamic_batching {",
        f"  max_queue_delay_microseconds: {round(1000 * serving.delay_ms)}",
        "  default_queue_policy {",
        "    timeout_action: REJECT",
        f"    default_timeout_microseconds: {round(1000 * serving.timeout_ms)}",
        "    allow_timeout_override: true",
        f"    max_queue_size: {serving.max_queue}",
        "  }",
        "}",
    ]
    parameters = {"edgeexit.bundle": bundle}
    if serving.threads:
        parameters["intra_op_thread_count"] = str(serving.threads)
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _tensor(field: str, spec: TensorSpec) -> str:
    if spec.dtype not in _TYPES or not spec.shape:
        raise ModelError(
            f"Triton takes no tensor like {spec.name}",
            got=f"{spec.dtype} {['n', *spec.shape]}",
            expected=f"one of {', '.join(_TYPES)}, with an axis besides the batch",
            remedy="serve this tail with: edgeexit serve",
        )
    dims = ", ".join(map(str, spec.shape))
    return f"{field} [\n  {{ name: {_quoted(spec.name)} data_type: {_TYPES[spec.dtype]} dims: [ {dims} ] }}\n]"


def _quoted(text: str) -> str:
    """A string of the text format: every byte that is not plain ASCII as an octal escape."""
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(plain)}"'
