"""Every name of a vendor's library that the code uses, held against the real bindings and against the fakes.

Where EDGEEXIT_BINDINGS names a folder of wheels, see `bindings.py`, the real bindings are asked; else those
tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from edgeexit_runtime.backends.tensorrt.fake import FakeMemory, fake_tensorrt
from runtime.tensorrt import bindings, names
from runtime.tensorrt.inspect_library import arities, problems

FOLDER = os.environ.get("EDGEEXIT_BINDINGS")
WHEELS = sorted(Path(FOLDER).glob("*.whl"), key=bindings.version_of) if FOLDER else []
GCC = shutil.which("gcc")

real_bindings = pytest.mark.skipif(
    not WHEELS or not GCC,
    reason="needs gcc, and EDGEEXIT_BINDINGS=FOLDER after python tests/runtime/tensorrt/bindings.py FOLDER",
)


def stored() -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = json.loads(names.NAMES.read_text())
    return found


def test_the_stored_names_are_those_that_the_code_uses() -> None:
    assert names.NAMES.read_text() == names.document(), "run python tests/runtime/tensorrt/names.py"


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_the_fake_has_every_name_that_the_code_uses(version: str) -> None:
    trt = fake_tensorrt(FakeMemory(), version)
    instances = {"IBuilderConfig.progress_monitor"}  # set in __init__, where a class doesn't show it
    used = {name: [-1] for name in stored()["tensorrt"] if name not in instances}
    assert problems(trt, used) == []


def test_a_name_that_is_not_there_and_a_wrong_call_are_found() -> None:
    class Library:
        class Builder:
            def build(self) -> None:
                """build(self: x.Builder, network: Dict[int, int], flags: int = 0) -> None"""

    assert problems(Library, {"Builder.build": [-1, 1, 2]}) == []
    assert len(problems(Library, {"Builder.build": [0], "Builder.make": [-1], "Parser.x": [-1]})) == 3


def test_a_signature_with_overloads_allows_each() -> None:
    class Overloaded:
        """f(*args, **kwargs)

        1. f(self: x.Y, data: buffer) -> None
        2. f(self: x.Y, a: Tuple[int, int], b: x.Z, c: int = <A.B: 0>) -> None
        """

    assert arities(Overloaded()) == {1, 2, 3}


@real_bindings
@pytest.mark.parametrize(
    "wheel", [wheel for wheel in WHEELS if wheel.name.startswith("tensorrt_")], ids=lambda wheel: wheel.name[:32]
)
def test_tensorrt_has_every_name(wheel: Path, tmp_path: Path) -> None:
    stubs = bindings.stub_tensorrt(tmp_path)
    env = bindings.environment(stubs, bindings.unpack(wheel, tmp_path))
    result = bindings.inspect("tensorrt", "tensorrt_bindings", env, "--subclasses")
    assert result["wrong"] == []
    assert result["names"] > 50
    fakes = tmp_path / "fakes.json"
    fakes.write_text(json.dumps({"tensorrt": {name: [-1] for name in public_names(result["version"])}}))
    assert bindings.inspect("tensorrt", "tensorrt_bindings", env, names=fakes)["wrong"] == []


def public_names(version: str) -> list[str]:
    """Every class of the fake, and what it has besides underscored names."""
    classes = {
        name: part for name, part in vars(fake_tensorrt(FakeMemory(), version)).items() if isinstance(part, type)
    }
    return [
        *classes,
        *(
            f"{name}.{attribute}"
            for name, part in classes.items()
            for attribute in (*vars(part), *getattr(part, "__members__", ()))
            if not attribute.startswith("_")
        ),
    ]


@real_bindings
@pytest.mark.parametrize(
    "wheel",
    [wheel for wheel in WHEELS if wheel.name.startswith(("cuda_bindings", "cuda_python"))],
    ids=lambda wheel: wheel.name[:24],
)
def test_cuda_python_has_every_name_and_works_on_a_fake_driver(wheel: Path, tmp_path: Path) -> None:
    paths = [bindings.unpack(path, tmp_path) for path in (wheel, *Path(FOLDER or "").glob("cuda_pathfinder*.whl"))]
    module = "cuda.bindings.driver" if (paths[0] / "cuda/bindings").is_dir() else "cuda.cuda"
    driver = bindings.fake_driver(tmp_path)
    assert bindings.inspect("cuda.bindings.driver", module, bindings.environment(driver, *paths))["wrong"] == []
    assert bindings.exercise("CudaPythonMemory", bindings.environment(driver, *paths)) == "works"


@real_bindings
def test_pycuda_has_every_name_and_works_on_a_fake_driver(tmp_path: Path) -> None:
    built = os.environ.get("EDGEEXIT_PYCUDA")
    if not built:
        pytest.skip("EDGEEXIT_PYCUDA names no folder in which pycuda was built for this Python")
    env = bindings.environment(bindings.fake_driver(tmp_path), Path(built))
    assert bindings.inspect("pycuda.driver", "pycuda.driver", env, "--only-names")["wrong"] == []
    assert bindings.exercise("PycudaMemory", env) == "works"
