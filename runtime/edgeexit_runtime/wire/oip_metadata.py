"""What a server says of its tails, as messages of the Open Inference Protocol v2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeexit.manifest import TensorSpec
from edgeexit.tensors import MAX_RANK
from edgeexit_runtime.wire.limits import MAX_TENSORS
from edgeexit_runtime.wire.messages import PLATFORM, ModelMetadata, WireError
from edgeexit_runtime.wire.oip_tensors import DATATYPES, DTYPES, check_text, service_pb2

__all__ = ["LOGITS", "OUTPUTS", "VERSION", "metadata", "read_metadata"]

OUTPUTS: Mapping[str, str] = {
    "label": "INT64",
    "probability": "FP32",
    "exit": "INT64",
    "score": "FP32",
    "degraded": "BOOL",
}
"""What a tier of ours gives for each sample, and its data type."""

LOGITS = "logits"
"""What a server without a policy gives: FP32 (n, E, C)."""

VERSION = "1"

_MALFORMED = "INTERNAL"
_DATATYPE_OF_NAME = {dtype.name: datatype for dtype, datatype in DATATYPES.items()}
_ANY = -1


def metadata(model: str, takes: Sequence[TensorSpec]) -> Any:
    """The `ModelMetadataResponse` for a tail of ours.

    Args:
        model: The tail's name.
        takes: What it takes, as `Tail.takes` says. Rounded payloads are taken as well.
    """
    response = service_pb2.ModelMetadataResponse(name=model, versions=[VERSION], platform=PLATFORM)
    for spec in takes:
        response.inputs.add(name=spec.name, datatype=_DATATYPE_OF_NAME[spec.dtype], shape=(_ANY, *spec.shape))
    for name, datatype in OUTPUTS.items():
        response.outputs.add(name=name, datatype=datatype, shape=(_ANY,))
    return response


def read_metadata(response: Any) -> ModelMetadata:
    """What a `ModelMetadataResponse` says, whoever's it is.

    Raises:
        WireError: INTERNAL: a name, data type or shape is unusable.
    """
    for text in (response.name, response.platform):
        check_text("a name of the metadata", text, _MALFORMED)
    if max(len(response.inputs), len(response.outputs)) > MAX_TENSORS:
        raise WireError(_MALFORMED, "the metadata lists too many tensors")
    inputs = tuple(_spec(tensor) for tensor in response.inputs)
    return ModelMetadata(response.name, response.platform, inputs, tuple(_spec(t) for t in response.outputs))


def _spec(tensor: Any) -> TensorSpec:
    check_text("the name of a tensor", tensor.name, _MALFORMED)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise WireError(_MALFORMED, f"tensor {tensor.name!r} has the unknown data type {tensor.datatype[:20]!r}")
    shape = tuple(tensor.shape)
    if not 1 <= len(shape) <= MAX_RANK + 1 or any(axis < 1 and axis != _ANY for axis in shape):
        raise WireError(_MALFORMED, f"tensor {tensor.name!r} has an unusable shape")
    return TensorSpec(name=tensor.name, dtype=dtype.name, shape=shape[1:])
