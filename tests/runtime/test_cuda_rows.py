"""The graph of one Gather that chooses rows on a device."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit_runtime.backends.cuda import CudaBackend, Device
from edgeexit_runtime.backends.cuda_rows import Rows, gather_graph
from runtime.cuda_devices import KINDS

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest) -> CudaBackend:
    return CudaBackend(Device(request.param))


@pytest.mark.parametrize("element", [1, 2, 3, 6, 7, 9, 10, 11])
def test_the_graph_that_chooses_rows_is_valid_onnx(element: int) -> None:
    model = onnx.load_model_from_string(gather_graph(element))
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("Gather", ["tensor", "rows"], ["chosen"])
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [element, 7]


def test_the_graph_that_chooses_rows_has_these_bytes() -> None:
    assert gather_graph(1).hex() == (
        "08083a730a1e0a0674656e736f720a04726f7773120663686f73656e2206476174686572"
        "1204726f7773"
        "5a1a0a0674656e736f7212100a0e0801120a0a0312016e0a03120177"
        "5a130a04726f7773120b0a09080712050a0312016d"
        "621a0a0663686f73656e12100a0e0801120a0a0312016d0a03120177"
        "4202100d"
    )


def test_rows_open_one_session_an_element_type(backend: CudaBackend) -> None:
    rows = Rows(backend.device)
    for dtype in ("float32", "float32", "uint8"):
        for n in (2, 5):
            value = backend.to_device(np.ones((6, n), dtype)).value
            assert rows.gather(value, np.array([0, 0, 3])).shape() == [3, n]
    assert len(rows._graphs) == 2
