"""The server that is attacked: `edgeexit serve` in a process of its own, watched through /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Resources", "Victim", "proc_is_here"]

START_S = 60
RUN = "from edgeexit.cli import main; from runtime.cascades import COMMANDS; exit(main(None, COMMANDS))"

Address = tuple[str, int]


def proc_is_here() -> bool:
    """Whether this system tells what a process holds."""
    return Path("/proc/self/status").exists()


@dataclass(frozen=True)
class Resources:
    """What the process holds.

    Attributes:
        rss_kib: Resident memory.
        descriptors: Open file descriptors.
        threads: Threads.
    """

    rss_kib: int
    descriptors: int
    threads: int


class Victim:
    """The process, on free ports of this machine, with metrics, and a WebSocket unless told otherwise.

    Args:
        bundle: What it serves.
        *options: Further options of `edgeexit serve`.
        websocket: Whether it has one.

    Attributes:
        grpc, metrics, websocket: Where it listens.
        models: The names of its tails, the earliest first.
    """

    def __init__(self, bundle: Path, *options: object, websocket: bool = True) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        ports = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        ports += ["--websocket", "127.0.0.1:0"] if websocket else []
        words = [sys.executable, "-c", RUN, "serve", str(bundle), *ports, "--json", *map(str, options)]
        path = os.pathsep.join(map(str, (Path(__file__).parents[1], *sys.path)))
        environment = {**os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self._process.wait(START_S)
            raise AssertionError(self.log())
        document: Mapping[str, Any] = json.loads(said)
        self.grpc = _address(document["listening"])
        self.metrics = _address(document["metrics"])
        self.websocket = _address(document["websocket"]) if websocket else None
        self.models: tuple[str, ...] = tuple(document["models"])

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(START_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def resources(self) -> Resources:
        """What it holds now."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        descriptors = len(os.listdir(f"/proc/{self._process.pid}/fd"))
        return Resources(int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"]))

    def stop(self, patience_s: float) -> int:
        """Send SIGTERM, and return the exit code."""
        self._process.terminate()
        return self._process.wait(patience_s)

    def log(self) -> str:
        """What it wrote to standard error so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="backslashreplace")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)
