"""What the CUDA backend refuses, and how."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import BackendError, BundleError, MissingPartError, UsageError
from edgeexit_runtime.backends import SessionSettings, load_backend
from edgeexit_runtime.backends.cuda import CudaBackend, Device
from edgeexit_runtime.backends.cuda_rows import gather_graph
from edgeexit_runtime.backends.ort_errors import is_out_of_memory, opening_error, running_error
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from runtime.cascades import F32, write_tiny
from runtime.cuda_devices import CONTENTS, KINDS, built_with_cuda, gpu_is_here, open_segment, samples

onnx = pytest.importorskip("onnx")

GPU_PYTHON = os.environ.get("EDGEEXIT_GPU_PYTHON")
"""A Python with onnxruntime-gpu and edgeexit-runtime, on a machine without a GPU."""


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest) -> CudaBackend:
    return CudaBackend(Device(request.param))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("cuda") / "tiny")


@pytest.mark.parametrize("changes", [{"inputs": ()}, {"policy_inputs": ()}, {"logits": "other"}])
def test_a_graph_that_contradicts_the_manifest_is_a_bundle_error(
    backend: CudaBackend, changes: Mapping[str, Any]
) -> None:
    with pytest.raises(BundleError, match=r"segments/00\.onnx"):
        open_segment(backend, **changes)


def test_bytes_that_are_no_graph_are_a_bundle_error(backend: CudaBackend) -> None:
    with pytest.raises(BundleError, match=r"segments/00\.onnx is not a graph"):
        open_segment(backend, data=b"nonsense")


def test_a_failure_while_running_is_a_backend_error(backend: CudaBackend) -> None:
    segment = open_segment(backend)
    with pytest.raises(BackendError, match=r"failed while it ran segments/00\.onnx"):
        segment.run([backend.to_device(np.zeros((2, 5), F32))])


def test_too_little_memory_is_a_backend_error_that_says_what_to_do(backend: CudaBackend) -> None:
    def greedy(model: Any) -> None:
        size = onnx.numpy_helper.from_array(np.array([1 << 44, 1], np.int64), "size")
        model.graph.initializer.append(size)
        expand = onnx.helper.make_node("Expand", ["zero", "size"], ["much"])
        zero = onnx.helper.make_node("ReduceSum", ["h0"], ["zero"], keepdims=1)
        total = onnx.helper.make_node("ReduceSum", ["much"], ["total"], keepdims=1)
        small = onnx.helper.make_node("Add", ["logits", "total"], ["sum"])
        model.graph.node.extend([zero, expand, total, small])
        model.graph.output[-1].name = "sum"

    model = onnx.load_model_from_string(CONTENTS["segments/00.onnx"])
    greedy(model)
    segment = open_segment(backend, data=model.SerializeToString(), logits="sum")
    with pytest.raises(BackendError, match=r"too little memory to run segments/00\.onnx") as caught:
        segment.run([backend.to_device(samples(2))])
    assert "smaller batches" in str(caught.value)
    with pytest.raises(BackendError, match="too little memory"):
        backend.device.empty([1 << 50], "float32")


ALLOCATION = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Status "
    "Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* AllocateRawInternal(size_t, bool)\n"
    "Failed to allocate memory for requested buffer of size 2830172160\n"
)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ALLOCATION),
        RuntimeError("bfc_arena.cc:154 Extend Available memory of 1024 is smaller than requested bytes of 4096"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; file=cuda_allocator.cc ; line=1 ; expr=…"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=box"),
        RuntimeError("CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0"),
        MemoryError("std::bad_alloc"),
    ],
)
def test_texts_about_memory_are_known_for_what_they_are(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert "too little memory" in str(running_error("segments/03.onnx", error))
    opening = opening_error("segments/03.onnx", error)
    assert (opening.exit_code, "too little memory" in str(opening)) == (6, True)
    assert "hostname" not in str(opening)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 36: API call is not supported in the installed CUDA driver ; GPU=-1 ; hostname=vm ; file=x.cc",
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=vm",
        "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0 ; hostname=vm",
        "Invalid device ID: 3, must be between 0 (inclusive) and 1 (exclusive).",
    ],
)
def test_a_device_that_fails_while_a_graph_is_opened_is_no_fault_of_the_bundle(text: str) -> None:
    error = opening_error("segments/03.onnx", RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {text}"))
    assert (type(error), error.exit_code) == (BackendError, 6)
    assert "hostname" not in str(error)


def test_an_onnxruntime_without_cuda_names_the_package_to_install() -> None:
    with pytest.raises(MissingPartError, match="onnxruntime-gpu"):
        Device("cuda").check(available=lambda: ["CPUExecutionProvider"])


def test_a_machine_without_a_driver_is_told_so() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(BackendError, match="no CUDA driver"):
        Device("cuda").check(
            available=lambda: ["CUDAExecutionProvider"], driver=lambda: check_driver(load=missing, root=Path("/none"))
        )


@pytest.mark.skipif(gpu_is_here(), reason="the provider starts here")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_silently_runs_on_the_cpu_is_refused() -> None:
    with pytest.raises(BackendError, match="does not start") as caught:
        Device("cuda").graph(gather_graph(1), "rows", SessionSettings())
    assert (caught.value.got, caught.value.expected) == ("CPUExecutionProvider", "CUDAExecutionProvider")


@pytest.mark.skipif(gpu_is_here(), reason="there is a GPU")
def test_memory_on_a_gpu_that_is_not_there_is_a_backend_error() -> None:
    for ask in (lambda: Device("cuda").empty([1], "float32"), lambda: Device("cuda").upload(np.zeros(1, F32))):
        with pytest.raises(BackendError):
            ask()


def test_a_negative_gpu_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no such GPU"):
        Device(index=-1)


def test_the_providers_options_keep_float32_exact_and_memory_tight() -> None:
    (name, options), fallback = Device(index=1, arena_limit_bytes=1 << 30).providers
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
        "gpu_mem_limit": "1073741824",
    }


# the command line


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "some.npz", x=samples(6), y=np.zeros(6, np.int64))
    return tmp_path / "some.npz"


def edgeexit(python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "edgeexit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "run": lambda bundle, archive: ["run", bundle, archive],
    "eval": lambda bundle, archive: ["eval", bundle, "--data", archive, "--json"],
    "verify": lambda bundle, archive: ["verify", bundle, "--json"],
}


@pytest.mark.skipif(built_with_cuda(), reason="this ONNX Runtime was built with CUDA")
@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_provider_a_command_ends_with_exit_code_6_and_the_package(
    command: str, bundle: Path, archive: Path
) -> None:
    done = edgeexit(sys.executable, *COMMANDS[command](bundle, archive), "--backend", "cuda")
    assert (done.returncode, done.stdout) == (6, "")
    assert "pip install onnxruntime-gpu" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(GPU_PYTHON is None, reason="EDGEEXIT_GPU_PYTHON names no Python with onnxruntime-gpu")
def test_with_the_provider_and_no_driver_a_command_ends_with_exit_code_6(bundle: Path, archive: Path) -> None:
    done = edgeexit(str(GPU_PYTHON), *COMMANDS["run"](bundle, archive), "--backend", "cuda")
    assert (done.returncode, done.stdout) == (6, "")
    assert "driver" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_the_backends(cli: Callable[..., Any], command: str) -> None:
    assert "onnxruntime|cuda" in cli(command, "--help").stdout.replace("\n", "").replace(" ", "")


def test_an_unknown_backend_is_a_usage_error(cli: Callable[..., Any], bundle: Path) -> None:
    assert cli("verify", bundle, "--backend", "abacus").code == 2
    with pytest.raises(UsageError, match="no such backend"):
        load_backend("abacus")
