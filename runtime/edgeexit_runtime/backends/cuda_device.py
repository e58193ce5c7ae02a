"""A device of ONNX Runtime: its memory, and how sessions are opened on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.errors import BackendError, EdgeExitError, MissingPartError, UsageError
from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.backends.ort_errors import running_error
from edgeexit_runtime.backends.tensorrt.driver import check_driver

__all__ = ["Device"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Device:
    """Where segments are run, and with which of the provider's options.

    TF32 is off: it has 10 bits of mantissa, so logits would differ from the workstation's by about 1e-3 of the
    largest, which is as much as `verify` lets pass.

    Args:
        kind: "cuda", or "cpu" for the same code without a GPU: that is how it is tested.
        index: Which GPU, of those that CUDA lists.
        arena_limit_bytes: The most device memory for the weights and inner tensors of one segment; None for
            no limit.
        conv_search: How cuDNN chooses an algorithm for a convolution. EXHAUSTIVE tries them all, for each batch
            size that comes along, which takes up to a second each time.

    Raises:
        UsageError: `index` is negative.
    """

    kind: Literal["cuda", "cpu"] = "cuda"
    index: int = 0
    arena_limit_bytes: int | None = None
    conv_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] = "HEURISTIC"

    def __post_init__(self) -> None:
        if self.index < 0:
            raise UsageError("there is no such GPU", got=self.index, expected="0 or more")

    @property
    def providers(self) -> list[Any]:
        """ONNX Runtime's execution providers with their options, the preferred one first."""
        if self.kind == "cpu":
            return [PROVIDERS["cpu"]]
        options = {
            "device_id": str(self.index),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": self.conv_search,
            "do_copy_in_default_stream": "1",
            "use_tf32": "0",
        }
        if self.arena_limit_bytes is not None:
            options["gpu_mem_limit"] = str(self.arena_limit_bytes)
        return [(PROVIDERS["cuda"], options), PROVIDERS["cpu"]]

    def check(
        self,
        *,
        available: Callable[[], Sequence[str]] = ort.get_available_providers,
        driver: Callable[[], object] = check_driver,
    ) -> None:
        """Refuse early what ONNX Runtime would answer by running on the CPU.

        Args:
            available: The providers that this ONNX Runtime was built with.
            driver: Raises where CUDA's driver finds no GPU.

        Raises:
            MissingPartError: This ONNX Runtime was built without CUDA.
            BackendError: There is no driver or no GPU.
        """
        if self.kind == "cpu":
            return
        built_with = available()
        if PROVIDERS["cuda"] not in built_with:
            raise MissingPartError(
                "the cuda backend needs an ONNX Runtime that was built with CUDA, and this one was not",
                got=f"onnxruntime {ort.__version__} with {', '.join(built_with)}",
                remedy="pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
            )
        driver()
        if hasattr(ort, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN where pip puts them
            with redirect_stdout(sys.stderr):  # it prints what it misses
                ort.preload_dlls()

    def graph(self, data: bytes, name: str, settings: SessionSettings, **arguments: Any) -> Graph:
        """Open a graph here. The other arguments are those of `Graph`.

        Raises:
            BundleError: The graph cannot be read, or has other inputs or outputs than these.
            BackendError: It cannot be run here.
        """
        graph = Graph(data, name, settings, providers=self.providers, **arguments)
        used = graph.session.get_providers()
        if PROVIDERS[self.kind] not in used:
            raise BackendError(
                "ONNX Runtime's CUDA provider does not start, and everything would run on the CPU",
                got=", ".join(used),
                expected=PROVIDERS[self.kind],
                remedy="what it misses is printed above; CUDA and cuDNN come with "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        return graph

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Memory on the device, of no particular content.

        Raises:
            BackendError: There is too little of it.
        """
        with _translated("a tensor"):
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, self.kind, self.index)

    def upload(self, array: NDArray[Any]) -> Any:
        """A C-contiguous array on the device. On the CPU it is the array's own memory.

        Raises:
            BackendError: There is too little memory.
        """
        with _translated("a copy to the device"):
            return ort.OrtValue.ortvalue_from_numpy(array, self.kind, self.index)

    def download(self, value: Any) -> NDArray[Any]:
        """A host array of a tensor.

        Raises:
            BackendError: The device failed.
        """
        with _translated("a copy from the device"):
            array: NDArray[Any] = value.numpy()
        return array


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except EdgeExitError:
        raise
    except Exception as error:  # RuntimeError mostly, and MemoryError
        raise running_error(what, error) from error
