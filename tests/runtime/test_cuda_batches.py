"""Batch sizes that change rarely."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit_runtime.backends.cuda import CudaBackend, Device
from edgeexit_runtime.backends.cuda_batches import PATIENCE_RUNS, SteadyBatch, has_convolutions
from runtime.cuda_devices import CONTENTS, open_segment

onnx = pytest.importorskip("onnx")


@given(st.lists(st.integers(1, 200), max_size=100))
def test_a_steady_batch_never_has_too_few_rows(sizes: list[int]) -> None:
    batch = SteadyBatch()
    assert all(batch.fit(n) >= n for n in sizes)


def test_a_constant_batch_wastes_nothing() -> None:
    batch = SteadyBatch()
    assert [batch.fit(n) for n in (64, 64, 64)] == [64, 64, 64]


def test_survivors_in_varying_number_change_the_batch_rarely() -> None:
    batch, random = SteadyBatch(), np.random.default_rng(0)
    sizes = [batch.fit(int(n)) for n in random.binomial(64, 0.6, 1000)]
    assert sum(a != b for a, b in pairwise(sizes)) < 20
    assert np.mean(sizes) < 1.4 * 0.6 * 64


def test_a_large_batch_is_forgotten_after_a_while() -> None:
    batch = SteadyBatch()
    batch.fit(128)
    sizes = [batch.fit(8 + i % 3) for i in range(PATIENCE_RUNS + 1)]
    assert sizes == [128] * (PATIENCE_RUNS - 1) + [10, 10]


def test_only_graphs_with_convolutions_are_run_at_steady_batches() -> None:
    assert open_segment(CudaBackend(Device("cpu"))).batch is None
    value = onnx.helper.make_tensor_value_info("x", 1, ["n", 1, 4, 4])
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_empty_tensor_value_info("y")])
    assert has_convolutions(onnx.helper.make_model(graph).SerializeToString())
    assert not has_convolutions(CONTENTS["segments/00.onnx"])
    assert has_convolutions(b"\xff\xff nothing that can be read")
