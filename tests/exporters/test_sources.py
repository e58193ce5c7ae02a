"""Loading a source: an ONNX file, or a torch module named module:function."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zoo
import zoo_onnx as drawn
from cascades import run
from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError, UsageError
from edgeexit_exporters.sources import Source, is_torch_source, load_onnx, load_torch
from integration.material import NORMALISE, normalised, pictures, save_arrays, save_folder

needs_torch = pytest.mark.usefixtures("torch_is_here")

MODULE = """
import torch

SIZE = 5

def linear():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))

def training():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 5)).train()

def raises():
    raise RuntimeError("no weights here")

def words():
    return "a model"

def wants(argument):
    return linear()

class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = linear()

    def forward(self, left, right):
        return self.layers(left + right)

class Dictionary(Two):
    def forward(self, x):
        return {"hidden": self.layers[0](x), "logits": self.layers(x)}

class Broken(Two):
    def forward(self, x):
        return self.layers(x) + self.forgotten

instance = linear()
"""


@pytest.fixture(scope="session")
def torch_is_here() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder."""
    (tmp_path / "my_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_models"
    sys.modules.pop("my_models", None)


def rows(n: int = 4) -> Any:
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)


def agrees(source: Source, feeds: dict[str, Any], module: Any) -> None:
    import torch

    with torch.no_grad():
        expected = module(*(torch.from_numpy(array) for array in feeds.values()))
    names = [value.name for value in source.model.graph.input]
    found = run(source.model, dict(zip(names, feeds.values(), strict=True)))
    for ours, theirs in zip(found.values(), expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "is_torch"),
    [
        ("package.models:build", True),
        ("zoo_torch:small_resnet", True),
        ("model.onnx", False),
        ("folder/model.onnx", False),
        ("C:/models/model.onnx", False),
        ("model", False),
    ],
)
def test_a_colon_marks_a_torch_source(source: str, is_torch: bool) -> None:
    assert is_torch_source(source) is is_torch


def test_an_existing_file_with_a_colon_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a:b").touch()
    assert not is_torch_source(str(tmp_path / "a:b"))


def test_a_file_goes_by_its_name_and_its_hash(tmp_path: Path) -> None:
    onnx.save(drawn.residual().model, tmp_path / "net.onnx")
    source = load_onnx(tmp_path / "net.onnx")
    assert source.name == "net.onnx"
    assert source.sha256 is not None
    assert len(source.sha256) == 64


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    specimen = drawn.residual()
    (tmp_path / "deep").mkdir()
    onnx.save(
        specimen.model, tmp_path / "deep" / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    loaded = load_onnx(tmp_path / "deep" / "net.onnx").model
    expected = run(drawn.residual().model, specimen.inputs)["logits"]
    np.testing.assert_allclose(run(loaded, specimen.inputs)["logits"], expected, rtol=1e-5, atol=1e-6)


def test_missing_weights_beside_the_model_are_an_error_that_names_it(tmp_path: Path) -> None:
    onnx.save(drawn.residual().model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx"):
        load_onnx(tmp_path / "net.onnx")


def test_weights_outside_of_the_models_folder_are_refused(tmp_path: Path) -> None:
    model = drawn.residual().model
    (tmp_path / "secret.bin").write_bytes(bytes(10**5))
    (tmp_path / "deep").mkdir()
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../secret.bin", "offset": "0", "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "deep" / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"net\.onnx"):
        load_onnx(tmp_path / "deep" / "net.onnx")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model file"):
        load_onnx(tmp_path)


@needs_torch
def test_a_torch_module_computes_the_same_as_onnx(module: str) -> None:
    import my_models

    agrees(load_torch(f"{module}:linear", rows()), {"x": rows(7)}, my_models.linear())


@needs_torch
def test_a_torch_source_has_a_free_batch_axis(module: str) -> None:
    (value,) = load_torch(f"{module}:linear", rows()).model.graph.input
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@needs_torch
def test_a_module_that_exists_already_can_be_named_too(module: str) -> None:
    assert load_torch(f"{module}:instance", rows()).sha256 is None


@needs_torch
def test_a_module_in_training_mode_is_exported_in_evaluation_mode(module: str) -> None:
    import my_models
    import torch

    torch.manual_seed(1)
    source = load_torch(f"{module}:training", rows())
    torch.manual_seed(1)
    agrees(source, {"x": rows(7)}, my_models.training().eval())


@needs_torch
def test_several_inputs_go_by_the_names_of_forward(module: str) -> None:
    import my_models
    import torch

    torch.manual_seed(2)
    feeds = {"right": rows(), "left": 2 * rows()}
    source = load_torch(f"{module}:Two", feeds)
    assert [value.name for value in source.model.graph.input] == ["left", "right"]
    agrees(source, {"left": rows(5), "right": rows(5) + 1}, my_models.Two())


@needs_torch
def test_an_input_that_the_data_lack_is_a_usage_error(module: str) -> None:
    with pytest.raises(UsageError, match="right"):
        load_torch(f"{module}:Two", {"left": rows()})


@needs_torch
def test_a_module_that_returns_a_dictionary_gives_its_tensors(module: str) -> None:
    shapes = [value.name for value in load_torch(f"{module}:Dictionary", rows()).model.graph.output]
    assert len(shapes) == 2


@needs_torch
@pytest.mark.parametrize("name", ["nothing", "SIZE", "words", "wants", "raises", ""])
def test_what_gives_no_module_is_refused_with_the_sources_name(module: str, name: str) -> None:
    with pytest.raises((UsageError, ModelError), match=f"{module}:{name}"):
        load_torch(f"{module}:{name}", rows())


@needs_torch
def test_a_python_module_that_does_not_exist_is_a_usage_error(module: str) -> None:
    with pytest.raises(UsageError, match="no_such_module"):
        load_torch("no_such_module:build", rows())


@needs_torch
def test_a_python_module_that_fails_says_why(module: str, tmp_path: Path) -> None:
    (tmp_path / "broken_models.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        load_torch("broken_models:build", rows())


@needs_torch
def test_a_module_that_torch_cannot_export_is_a_model_error(module: str) -> None:
    with pytest.raises(ModelError, match=f"{module}:Broken"):
        load_torch(f"{module}:Broken", rows())


@needs_torch
def test_loading_prints_nothing(module: str, capfd: pytest.CaptureFixture[str]) -> None:
    load_torch(f"{module}:linear", rows())
    assert capfd.readouterr() == ("", "")


@needs_torch
@pytest.mark.parametrize("name", ["three_logits", "small_resnet"])
def test_the_zoos_torch_models_can_be_loaded(name: str) -> None:
    import zoo_torch

    inputs = zoo.specimen("multi-exit/script").inputs["image"]
    source = load_torch(f"zoo_torch:{name}", inputs)
    agrees(source, {"image": inputs}, getattr(zoo_torch, name)())


@pytest.fixture
def from_the_shell() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command `edgeexit` in a process of its own, as a user does."""

    def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "edgeexit"), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    return run


@needs_torch
def test_a_torch_source_is_found_in_the_current_folder(
    from_the_shell: Callable[..., Any], module: str, tmp_path: Path
) -> None:
    data = save_arrays(tmp_path / "data.npz", x=rows(100), y=np.arange(100) % 5)
    options = ["--data", data, "--exits", "1", "--labels", "model", "--json", "-o", "bundle.eexit"]
    done = from_the_shell(tmp_path, "export", f"{module}:linear", *options)
    assert done.returncode == 0, done.stderr
    (source,) = Bundle.open(tmp_path / "bundle.eexit").manifest.provenance.sources
    assert (source.name, source.sha256) == (f"{module}:linear", None)


@needs_torch
def test_a_torch_model_takes_pictures(from_the_shell: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def build():\n"
        "    nn = torch.nn\n"
        "    torch.manual_seed(0)\n"
        "    body = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()]\n"
        "    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))\n"
    )
    data = save_folder(tmp_path / "data", *pictures(100, 0))
    options = ["--data", data, *NORMALISE, "--exits", "1", "--labels", "model", "-o", "bundle"]
    done = from_the_shell(tmp_path, "export", "nets:build", *options)
    assert done.returncode == 0, done.stderr
    assert from_the_shell(tmp_path, "verify", "bundle").returncode == 0


@needs_torch
def test_a_torch_model_and_an_onnx_file_make_a_cascade(
    from_the_shell: Callable[..., Any], module: str, tmp_path: Path
) -> None:
    del module
    pixels, labels = pictures(100, 0)
    import zoo_torch

    specimen = zoo.specimen("resnet/script")
    onnx.save(specimen.model, tmp_path / "big.onnx")
    (tmp_path / "zoo_torch.py").write_text(Path(zoo_torch.__file__).read_text())
    x = normalised(pixels.repeat(2, axis=1).repeat(2, axis=2))
    data = save_arrays(tmp_path / "data.npz", x=x, y=labels)
    options = ["--data", data, "--exits", "0", "--labels", "model", "-o", "bundle"]
    done = from_the_shell(tmp_path, "export", "zoo_torch:three_logits", "big.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert len(Bundle.open(tmp_path / "bundle").manifest.exits) == 4
