"""Peak memory of a model, measured in a process that does nothing else.

As a program, `python -m edgeexit_runtime.memory cascade|whole PATH SAMPLES THREADS`, it opens a bundle or an ONNX
file, runs the batch in the file SAMPLES a few times, and prints what it held, as JSON. Linux only: elsewhere
nobody tells.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgeexit.errors import BackendError
from edgeexit.tensors import load_tensors, save_tensors
from edgeexit_runtime.batches import Arrays

__all__ = ["Memory", "measure_memory", "memory_now"]

STATUS = Path("/proc/self/status")
RUNS = 3


@dataclass(frozen=True)
class Memory:
    """What a process holds.

    Attributes:
        resident_bytes: Resident when the model was open, Python, NumPy and ONNX Runtime included.
        peak_bytes: The most that was ever resident, after the batch was run.
    """

    resident_bytes: int
    peak_bytes: int


def memory_now(status: Path = STATUS) -> Memory | None:
    """What this process holds now, and the most that it ever held; None where the system doesn't tell.

    Args:
        status: The kernel's file about this process.
    """
    try:
        text = status.read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        resident, peak = (1024 * int(fields[key].split()[0]) for key in ("VmRSS", "VmHWM"))
    except (KeyError, ValueError, IndexError):
        return None
    return Memory(resident, peak)


def measure_memory(
    kind: str,
    model: str | Path | bytes,
    batch: Arrays,
    threads: int,
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> Memory | None:
    """Open and run a model in a fresh process; None where the system doesn't tell.

    Args:
        kind: "cascade" for a bundle, "whole" for an ONNX model.
        model: The path; or the ONNX model itself.
        batch: What to run.
        threads: CPU threads that one operator may use.
        run: As `subprocess.run`.

    Raises:
        BackendError: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeexit-memory-") as folder:
        samples = Path(folder) / "samples.safetensors"
        samples.write_bytes(save_tensors({name: np.ascontiguousarray(array) for name, array in batch.items()}))
        if isinstance(model, bytes):
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
        else:
            path = Path(model)
        command = [sys.executable, "-m", "edgeexit_runtime.memory", kind, str(path), str(samples), str(threads)]
        finished = run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        raise BackendError("the process that measures memory failed", got=last)
    found = json.loads(finished.stdout)
    return None if found is None else Memory(**found)


def main(words: Sequence[str]) -> None:
    """Measure in this process."""
    kind, path, samples, threads = words
    batch = load_tensors(Path(samples).read_bytes(), samples)
    run = _cascade(path, int(threads)) if kind == "cascade" else _whole(path, int(threads))
    opened = memory_now()
    for _ in range(RUNS):
        run(batch)
    after = memory_now()
    told = opened is not None and after is not None and Memory(opened.resident_bytes, after.peak_bytes)
    print(json.dumps(asdict(told) if told else None))


def _cascade(path: str, threads: int) -> Callable[[Arrays], object]:
    from edgeexit_runtime.cascade import Cascade

    return Cascade.open(path, threads=threads, lean=True).run


def _whole(path: str, threads: int) -> Callable[[Arrays], object]:
    from edgeexit_runtime.backends.base import SessionSettings
    from edgeexit_runtime.backends.onnx_graph import Graph

    graph = Graph(path, path, SessionSettings(threads=threads))
    return lambda batch: graph.run([batch[name] for name in graph.inputs])


if __name__ == "__main__":
    main(sys.argv[1:])
