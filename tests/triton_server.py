"""A real Triton Inference Server: the one inside nvidia-pytriton, which has the Python backend alone.

It runs where `EDGEEXIT_TRITON_PYTHON` names the interpreter of an environment with nvidia-pytriton and
onnxruntime. Models that EdgeExit wrote for the ONNX Runtime backend are served as they are, but for the backend's
name: a model of the Python backend runs the same graph in ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VARIABLE = "EDGEEXIT_TRITON_PYTHON"
START_S = 60.0

MODEL = """
from pathlib import Path

import onnxruntime as ort
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {name: utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.names}
        (logits,) = self.session.run(["logits"], feeds)
        return utils.InferenceResponse([utils.Tensor("logits", logits)])
"""

WHERE = """
import json, pathlib, sys, sysconfig
import onnxruntime, pytriton
print(json.dumps({
    "package": str(pathlib.Path(pytriton.__file__).parent),
    "site": sysconfig.get_path("purelib"),
    "base": sys.base_prefix,
    "version": "%d.%d" % sys.version_info[:2],
}))
"""


def triton_python() -> str:
    """The interpreter; skips the test where none is named or it has no Triton."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with nvidia-pytriton and onnxruntime")
    return python


@contextmanager
def triton(repository: Path, folder: Path) -> Iterator[str]:
    """A Triton that serves a copy of a repository on a port of loopback.

    Args:
        repository: As `edgeexit triton` writes it.
        folder: An empty one for the copy, the backend and the log.

    Yields:
        HOST:PORT of its gRPC.
    """
    places = json.loads(subprocess.check_output([triton_python(), "-c", WHERE], text=True))
    server = Path(places["package"]) / "tritonserver"
    models, backends = _served(repository, folder / "models"), folder / "backends"
    shutil.copytree(server / "backends" / "python", backends / "python")
    stub = server / "python_backend_stubs" / places["version"] / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    libraries = [f"{places['base']}/lib", f"{places['site']}/nvidia_pytriton.libs"]
    path = f"{Path(triton_python()).parent}:{os.environ['PATH']}"
    port, log = _free_port(), folder / "log"
    command = [server / "bin" / "tritonserver", "--model-repository", models, "--backend-directory", backends]
    command += ["--grpc-address", "127.0.0.1", "--grpc-port", port, "--allow-http", "false", "--allow-metrics", "false"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "PATH": path},
            stdout=output,
            stderr=output,
        )
    try:
        _wait(process, port, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _served(repository: Path, models: Path) -> Path:
    """The repository for a Triton without the ONNX Runtime backend."""
    shutil.copytree(repository, models)
    for config in models.glob("*/config.pbtxt"):
        lines = config.read_text().splitlines()
        assert 'backend: "onnxruntime"' in lines
        kept = [line for line in lines if not line.startswith(("backend:", "default_model_filename:"))]
        config.write_text("\n".join([*kept, 'backend: "python"', ""]))
        (config.parent / "1" / "model.py").write_text(MODEL)
    return models


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until its port answers: it listens when all models are ready."""
    end_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end_s:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Triton did not start:\n{log.read_text(errors='replace')[-3000:]}")
