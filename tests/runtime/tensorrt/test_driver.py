"""The CUDA driver is asked first, and what it says becomes an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeexit.errors import BackendError
from edgeexit_runtime.backends.tensorrt.driver import check_driver
from edgeexit_runtime.backends.tensorrt.fake import FakeDriver


def test_the_gpu_is_described(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\nGCC 11.4\n")
    gpu = check_driver(load=FakeDriver(name=b"Orin", compute_capability=(8, 7), cuda=12060), root=tmp_path)
    assert (gpu.name, gpu.compute_capability, gpu.cuda, gpu.driver) == ("Orin", "8.7", "12.6", "540.4.0")
    assert gpu.memory_bytes == 8 << 30


def test_a_driver_whose_version_the_system_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert check_driver(load=FakeDriver(), root=tmp_path).driver == "unknown"


def test_a_machine_without_a_driver_says_so() -> None:
    def load(library: str) -> Any:
        raise OSError(f"{library}: cannot open shared object file")

    with pytest.raises(BackendError, match="no CUDA driver") as caught:
        check_driver(load=load)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("driver", [FakeDriver(gpus=0), FakeDriver(starts_with=100)])
def test_a_driver_without_a_gpu_says_so(driver: FakeDriver) -> None:
    with pytest.raises(BackendError, match="finds no GPU"):
        check_driver(load=driver)


@pytest.mark.parametrize(("code", "name"), [(34, "CUDA_ERROR_STUB_LIBRARY"), (999, "CUDA_ERROR_UNKNOWN"), (77, "77")])
def test_a_driver_that_does_not_start_is_named_with_its_error(code: int, name: str) -> None:
    driver = FakeDriver(starts_with=code)
    with pytest.raises(BackendError, match=name):
        check_driver(load=driver)
    assert driver.calls == ["cuInit"]


def test_a_library_that_is_no_driver_is_refused() -> None:
    with pytest.raises(BackendError, match="without cuInit"):
        check_driver(load=lambda library: object())
