"""What a device gets from `pip install . ./runtime`: no torch, no onnx, little memory, and it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zoo_onnx as drawn
from edgeexit.cli import main
from integration.material import NORMALISE, save_folder

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SHARED_MODEL = REPOSITORY.parent / "shared" / "models" / "resnet56-cifar10.onnx"
MEMORY_LIMIT_BYTES = 80_000_000
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info", "tests", "benchmarks")
NO_INDEX = re.compile(r"connection|temporary failure|no matching distribution|timed? ?out|network|proxy", re.IGNORECASE)
WORKSTATION_PACKAGES = ("torch", "onnx", "onnxscript", "sklearn", "edgeexit_exporters")

RUN = """
import contextlib, io, json, re, sys
from edgeexit.cli import main

printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    code = main(sys.argv[1:])
status = open("/proc/self/status").read()
kib = {key: int(re.search(key + r":\\s+(\\d+) kB", status)[1]) for key in ("VmRSS", "VmHWM")}
print(json.dumps({"code": code, "lines": printed.getvalue().splitlines(), **kib}))
"""

OPEN = """
import json, re, sys
import numpy as np
from edgeexit_runtime import Cascade

cascade = Cascade.open(sys.argv[1])
pixels = np.load(sys.argv[2])["image"]
answers = [cascade.run(pixels[i : i + 1]) for i in range(len(pixels))]
status = open("/proc/self/status").read()
kib = {key: int(re.search(key + r":\\s+(\\d+) kB", status)[1]) for key in ("VmRSS", "VmHWM")}
several = cascade.run(pixels)
labels, exits = ([int(getattr(a, word)[0]) for a in answers] for word in ("label", "exit"))
same = labels == several.label.tolist() and exits == several.exit.tolist()
print(json.dumps({"labels": labels, "same": same, "modules": sorted(sys.modules), **kib}))
"""


def resnet56() -> onnx.ModelProto:
    """As large as ResNet-56 for CIFAR-10 and of the same form, its weights random: 0.85 M parameters, 10 classes."""
    g = drawn.Sketch(56)
    x, width = g("Relu", g.norm(g.conv("image", (3, 16)), 16)), 16
    for channels in (16, 32, 64):
        for block in range(9):
            stride = 2 if channels > 16 and block == 0 else 1
            y = g("Relu", g.norm(g.conv(x, (width, channels), stride=stride), channels))
            y = g.norm(g.conv(y, (channels, channels)), channels)
            shortcut = x if width == channels else g.conv(x, (width, channels), kernel=1, stride=stride)
            x, width = g("Mul", g("Relu", g("Add", y, shortcut)), g.store(np.float32(0.6))), channels
    g.dense(g("Flatten", g("GlobalAveragePool", x)), (64, 10), "logits")
    model = g.model({"image": (np.float32, (3, 32, 32))})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    return model


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a virtual environment with the core and the runtime, built from a copy of the sources."""
    root = tmp_path_factory.mktemp("device")
    shutil.copytree(REPOSITORY, root / "source", ignore=NOT_SOURCES)
    venv.create(root / "venv", with_pip=True)
    python = root / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--constraint", "constraints.txt", ".", "./runtime"]
    done = subprocess.run(command, cwd=root / "source", capture_output=True, text=True, check=False)
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"pip cannot fetch packages here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python.parent


@pytest.fixture(scope="module", params=["drawn", "trained"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of ResNet-56's size with nine exits, exported in this environment."""
    root = tmp_path_factory.mktemp("bundle")
    model = root / "resnet56.onnx"
    if request.param == "drawn":
        model.write_bytes(resnet56().SerializeToString())
    elif SHARED_MODEL.exists():
        model = SHARED_MODEL
    else:
        pytest.skip(f"{SHARED_MODEL} is not there")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    data = save_folder(root / "data", pixels, np.arange(200) % 10, [str(i) for i in range(10)])
    out = root / "resnet56.eexit"
    options = ["--labels", "model", "--exits", "9", "--max-drop", "0.1", "--quiet"]
    assert main(["export", *map(str, [model, "--data", data, *NORMALISE, *options, "-o", out])]) == 0
    return out


@pytest.fixture(scope="module")
def pixels(bundle: Path) -> Path:
    found = np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3), np.uint8)
    np.savez(bundle.parent / "new.npz", image=found)
    return bundle.parent / "new.npz"


@pytest.fixture
def on_device(device: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the device's environment, where nothing of this one can be seen."""

    def run(program: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [str(device / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Print what memory was measured, whatever pytest captures."""

    def show(what: str, found: dict[str, Any]) -> None:
        record_property(what, f"VmRSS {found['VmRSS']} KiB, VmHWM {found['VmHWM']} KiB")
        with capsys.disabled():
            resident, peak = (found[key] * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
            print(f"\n{what}: {resident:.1f} MB resident, {peak:.1f} MB at its peak")

    return show


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")


@pytest.mark.parametrize("package", WORKSTATION_PACKAGES)
def test_a_package_of_the_workstation_is_not_there(on_device: Callable[..., Any], package: str) -> None:
    assert "ModuleNotFoundError" in on_device("python", "-c", f"import {package}", code=1).stderr


def test_pip_finds_nothing_missing(on_device: Callable[..., Any]) -> None:
    on_device("python", "-m", "pip", "--disable-pip-version-check", "check")


def test_help_lists_the_devices_commands_and_what_could_be_added(on_device: Callable[..., Any]) -> None:
    here, _, absent = on_device("edgeexit", "--help").stdout.partition("More commands")
    for command in ("eval", "run", "bench", "verify", "inspect", "targets"):
        assert re.search(rf"^  {command} ", here, re.MULTILINE)
    assert "edgeexit-exporters" in absent


def test_export_ends_with_exit_code_6_and_names_the_package(on_device: Callable[..., Any]) -> None:
    done = on_device("edgeexit", "export", "model.onnx", "--data", "x", "-o", "y", code=6)
    assert "edgeexit-exporters" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_passes_on_the_device(on_device: Callable[..., Any], bundle: Path) -> None:
    found = json.loads(on_device("edgeexit", "verify", bundle, "--json").stdout)
    assert found["exits"] == 10
    assert found["samples"] >= 10


def test_targets_inspect_and_bench_work_on_the_device(on_device: Callable[..., Any], bundle: Path) -> None:
    assert json.loads(on_device("edgeexit", "targets", "--json").stdout)
    assert json.loads(on_device("edgeexit", "inspect", bundle, "--json").stdout)
    done = on_device("edgeexit", "bench", bundle, "--batch", "1", "--seconds", "0", "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["cascade_ms"] > 0
    assert row["full_ms"] is None


@needs_proc
def test_run_stays_below_80_megabytes(
    on_device: Callable[..., Any], report: Callable[..., None], bundle: Path, pixels: Path
) -> None:
    found = json.loads(on_device("python", "-c", RUN, "run", bundle, pixels.parent / "data").stdout)
    report("edgeexit run", found)
    assert found["code"] == 0
    assert len(found["lines"]) == 200
    assert found["VmRSS"] * 1024 < MEMORY_LIMIT_BYTES


@needs_proc
def test_the_python_interface_stays_below_80_megabytes(
    on_device: Callable[..., Any], report: Callable[..., None], bundle: Path, pixels: Path
) -> None:
    found = json.loads(on_device("python", "-c", OPEN, bundle, pixels).stdout)
    report("Cascade.open and run", found)
    assert found["VmRSS"] * 1024 < MEMORY_LIMIT_BYTES


@needs_proc
def test_the_device_answers_as_the_workstation_does(on_device: Callable[..., Any], bundle: Path, pixels: Path) -> None:
    from edgeexit_runtime import Cascade

    found = json.loads(on_device("python", "-c", OPEN, bundle, pixels).stdout)
    assert found["same"]
    assert found["labels"] == Cascade.open(bundle).run(np.load(pixels)["image"]).label.tolist()


@needs_proc
def test_the_python_interface_loads_neither_pillow_nor_rich(
    on_device: Callable[..., Any], bundle: Path, pixels: Path
) -> None:
    modules = json.loads(on_device("python", "-c", OPEN, bundle, pixels).stdout)["modules"]
    assert {"PIL", "rich", "click"} & set(modules) == set()
