"""A tier on a real Ray Serve, to test clients with.

It runs where `EDGEEXIT_RAY_PYTHON` names the interpreter of an environment with `edgeexit-runtime[ray]`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

VARIABLE = "EDGEEXIT_RAY_PYTHON"
START_S = 120.0
REMOVE_S = 10.0

SCRIPT = """
import json, sys
import ray
from ray import serve
from edgeexit_runtime.server.ray import INGRESS, build

def replicas():
    names = ray.util.list_named_actors(all_namespaces=True)
    return [n["name"] for n in names if n["name"].startswith("SERVE_REPLICA::edgeexit#tier#")]

folder, port, http_port, arguments = json.loads(sys.argv[1])
ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=folder)
options = {"port": port, "grpc_servicer_functions": [INGRESS]}
serve.start(http_options={"port": http_port}, grpc_options=options)
serve.run(build(arguments), name="edgeexit")
print(json.dumps(replicas()), flush=True)
for line in sys.stdin:
    if line == "kill\\n":
        ray.kill(ray.get_actor(replicas()[0], namespace="serve"))
    print(json.dumps(replicas()), flush=True)
serve.shutdown()
ray.shutdown()
"""


class RayServe:
    """Ray Serve with a tier of a bundle, in processes of its own.

    Attributes:
        address: HOST:PORT of its gRPC.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self._process = process
        self._log = log
        self.replicas = self._heard()

    def kill_a_replica(self) -> None:
        """End one at once, with what it was working on."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        self._heard()

    def _heard(self) -> list[str]:
        out: IO[str] | None = self._process.stdout
        assert out is not None
        for line in out:
            if line.startswith("["):
                found: list[str] = json.loads(line)
                return found
        pytest.fail(f"Ray Serve ended:\n{self._log.read_text(errors='replace')[-3000:]}")


def ray_python() -> str:
    """The interpreter; skips the test where none is named."""
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with edgeexit-runtime[ray]")
    return python


@contextmanager
def ray_serve(bundle: Path, log: Path, **arguments: object) -> Iterator[RayServe]:
    """Ray Serve on ports of loopback.

    Args:
        bundle: What to serve.
        log: A file for what Ray says.
        **arguments: Of `build`.
    """
    folder = tempfile.mkdtemp(prefix="ray")  # the paths of Ray's sockets are long already
    port = free_port()
    told = json.dumps([folder, port, free_port(), {"bundle": str(bundle), **arguments}])
    with log.open("w") as errors:
        process = subprocess.Popen(
            [ray_python(), "-c", SCRIPT, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
        )
    try:
        yield RayServe(process, port, log)
    finally:
        try:
            process.communicate("", timeout=START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        _remove(folder)


def _remove(folder: str) -> None:
    """Ray's own processes end a little later, and write until then."""
    end_s = time.monotonic() + REMOVE_S
    while os.path.exists(folder) and time.monotonic() < end_s:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
