"""The same on a real GPU with a real TensorRT; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.errors import BackendError
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends.tensorrt.backend import TensorRTBackend
from edgeexit_runtime.backends.tensorrt.opening import on_this_machine
from edgeexit_runtime.backends.tensorrt.ranges import ranges_up_to
from edgeexit_runtime.verification import verify
from runtime.cascades import EXITS, F32, weights, write_tiny

X = np.random.default_rng(3).standard_normal((30, 4)).astype(F32)


@pytest.fixture
def backend(tmp_path: Path) -> TensorRTBackend:
    try:
        return on_this_machine(cache=tmp_path / "cache", ranges=ranges_up_to((1, 4, 16)))
    except BackendError as error:
        pytest.skip(error.problem)


@pytest.mark.parametrize("pictures", [False, True])
def test_the_gpu_answers_as_the_cpu(tmp_path: Path, backend: TensorRTBackend, pictures: bool) -> None:
    opened = Bundle.open(write_tiny(tmp_path / "tiny", pictures=pictures))
    verify(opened, Cascade.open(opened, backend=backend))


def test_batches_lanes_and_parts_agree(tmp_path: Path, backend: TensorRTBackend) -> None:
    bundle = write_tiny(tmp_path / "tiny")
    gpu, cpu = Cascade.open(bundle, backend=backend), Cascade.open(bundle)
    np.testing.assert_allclose(gpu.logits(X), cpu.logits(X), rtol=1e-3, atol=1e-4)
    for n in (1, 4, 1, 30, 9):
        np.testing.assert_array_equal(gpu.run(X[:n]).label, cpu.run(X[:n]).label)


def test_engines_are_kept_and_policy_tensors_replaced(tmp_path: Path, backend: TensorRTBackend) -> None:
    bundle = write_tiny(tmp_path / "tiny")
    cascade = Cascade.open(bundle, backend=backend)
    opened = Bundle.open(bundle)
    for k in range(EXITS):
        assert not backend.build(opened.segment(k), opened.manifest.segments[k], lambda n=1: None).built
    bias = weights()["exit.0.bias"] + F32(2)
    other = cascade.with_tensors({"exit.0.weight": weights()["exit.0.weight"], "exit.0.bias": bias})
    np.testing.assert_allclose(other.logits(X)[0], cascade.logits(X)[0] + F32(2), rtol=1e-3, atol=1e-4)
