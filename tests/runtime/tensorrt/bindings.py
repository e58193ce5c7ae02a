"""The vendors' real bindings, without the libraries below them.

TensorRT's bindings are a compiled module that needs some ten functions of `libnvinfer`, `libnvinfer_plugin`
and `libnvonnxparser`. Libraries made of those functions alone, which do nothing, let the module be imported: all its
classes, methods, enumerations and signatures are there, only nothing can be called. cuda-python and pycuda are
imported beside the driver of `fake_libcuda.c`, and there everything can be called.

    python tests/runtime/tensorrt/bindings.py FOLDER     # downloads wheels for this Python into FOLDER

pycuda has to be compiled: `python setup.py build` in its source distribution, with the headers of the wheels
nvidia-cuda-runtime-cu12, nvidia-cuda-profiler-api-cu12 and nvidia-curand-cu12 as CUDA_ROOT/include, the library of
`fake_driver` as libcuda.so, and CUDA_ENABLE_CURAND = False in siteconf.py. EDGEEXIT_PYCUDA names the folder build/lib….
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNTIME = HERE.parents[2]

VERSIONS = {
    "tensorrt-cu12-bindings": (
        *("10.3.0", "10.4.0", "10.5.0", "10.6.0", "10.7.0", "10.8.0.43", "10.9.0.34", "10.10.0.31", "10.11.0.33"),
        *("10.12.0.36", "10.13.3.9", "10.14.1.48.post1", "10.15.1.29", "10.16.1.11"),
        *("11.0.0.114", "11.1.0.106", "11.2.1.2", "11.3.0.99", "11.4.0.106"),
    ),
    "tensorrt-cu13-bindings": ("10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106"),
    "cuda-bindings": ("12.8.0", "12.9.10", "13.0.3", "13.4.4", "13.5.0"),
    "cuda-python": ("12.3.0", "12.4.0", "12.5.0", "12.6.2.post1"),
    "cuda-pathfinder": ("",),
}
"""What is checked: each minor version of TensorRT from 10.3 on, for CUDA 12; some for CUDA 13."""

NEEDED = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)


def download(folder: Path) -> None:
    """Fetch the wheels that the folder lacks, by pip and one at a time."""
    for package, versions in VERSIONS.items():
        for version in versions:
            prefix = f"{package.replace('-', '_')}-{version}"
            if not any(path.name.startswith(prefix) for path in folder.glob("*.whl")):
                wanted = f"{package}=={version}" if version else package
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
                done = subprocess.run([*command, "-d", str(folder), wanted], check=False)
                print(f"{wanted}: {'here' if done.returncode == 0 else 'not to be had for this Python'}")


def unpack(wheel: Path, folder: Path) -> Path:
    """The folder to put on the path."""
    target = folder / wheel.name.removesuffix(".whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def stub_tensorrt(folder: Path) -> Path:
    """Libraries that let TensorRT's bindings be imported; needs gcc."""
    source = folder / "stub.c"
    extra = ("_ZGTtdlPv", "_ZGTtnam")  # of transactional memory, in some versions
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in (*NEEDED, *extra)))
    for major in ("10", "11"):
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            name = f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
            subprocess.run(command, check=True)
    return folder


def fake_driver(folder: Path) -> Path:
    """A `libcuda.so.1` in host memory; needs gcc."""
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*command, str(HERE / "fake_libcuda.c"), "-ldl"], check=True)
    return folder


def environment(libraries: Path, *paths: Path, **more: str) -> dict[str, str]:
    """For a process that finds these libraries and Python packages first."""
    own = [str(RUNTIME / "runtime"), str(RUNTIME)]
    return {
        **os.environ,
        **more,
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *own]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def inspect(
    library: str, module: str, env: dict[str, str], *flags: str, names: Path = HERE / "names.json"
) -> dict[str, Any]:
    """What `inspect_library.py` says about an installed library."""
    command = [sys.executable, str(HERE / "inspect_library.py"), str(names), library, module, *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        return {"version": None, "wrong": [done.stderr.strip().splitlines()[-1] if done.stderr else "it crashed"]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def exercise(shim: str, env: dict[str, str]) -> str:
    """What `exercise_memory.py` says about a memory shim, or the last line of its complaint."""
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, str(HERE / "exercise_memory.py"), shim]
        done = subprocess.run(
            command, env={**env, "FAKE_CUDA_LOG": log.name}, capture_output=True, text=True, check=False, timeout=120
        )
    return done.stdout.strip() if done.returncode == 0 else (done.stderr.strip() or "it crashed").splitlines()[-1]


def version_of(wheel: Path) -> tuple[int, ...]:
    """Of the wheel's file name, for sorting."""
    return tuple(int(number) for number in re.findall(r"\d+", wheel.name.split("-")[1]))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    download(target)
