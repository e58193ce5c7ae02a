"""What does the embedded server cost over the bare engine?

Two questions, each against the same segments run in a process with no server:

latency   one client, one request at a time, batch 1, for every tail of the bundle: milliseconds over the engine's own.
cpu       sixteen clients, each with one request of one sample in flight: CPU seconds of the server process a
          sample, over those of the bare engine at the mean batch size that the server reached.

    python benchmarks/tiers.py resnet56=R56 [resnet20=R20]

The server is `edgeexit serve` in a process of its own, on loopback; clients are bare gRPC stubs with requests that
were encoded beforehand, in this process (latency) or in one of their own (cpu).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from edgeexit.bundle import Bundle
from edgeexit.tails import model_name, tail_name
from edgeexit_runtime.groups import Group
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Question
from edgeexit_runtime.wire.oip import encode_question

CLIENTS = 16
SECONDS = 10.0
ROUNDS, WARM_UP = 300, 30
TICKS = os.sysconf("SC_CLK_TCK")
MESSAGE_BYTES = 64 << 20


class Server(NamedTuple):
    """A server process."""

    process: subprocess.Popen[str]
    address: str
    metrics: str


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "tiers.json")
def main(bundles: tuple[str, ...], out: Path) -> None:
    """Measure and write one JSON document."""
    document: dict[str, Any] = {"machine": describe_machine(), "bundles": {}}
    for name, _, path in (pair.partition("=") for pair in bundles):
        with served(path) as server:
            document["bundles"][name] = {"latency": latency(path, server), "cpu": cpu(path, server)}
        print(json.dumps(document["bundles"][name], indent=1), file=sys.stderr)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


@contextmanager
def served(path: str) -> Iterator[Server]:
    """`edgeexit serve` on ports of its own choice."""
    command = [sys.executable, "-m", "edgeexit", "serve", path, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--threads", "1", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Server(process, said["listening"], said["metrics"])
    finally:
        process.terminate()
        process.wait(30)


def samples_at(tail: Tail, bundle: Bundle, k: int) -> list[dict[str, NDArray[Any]]]:
    """The bundle's golden samples in front of segment k, one by one, all of them."""
    inputs = {spec.name: bundle.check[f"input.{spec.name}"] for spec in bundle.manifest.inputs}
    group = tail.begin(inputs, 0)
    for i in range(k):
        _, group = tail.step(i, group)
    arrays = tail.arrays(k, group)
    return [{name: np.ascontiguousarray(a[i : i + 1]) for name, a in arrays.items()} for i in range(group.size)]


def encoded(bundle: Bundle, k: int, sample: dict[str, NDArray[Any]]) -> service_pb2.ModelInferRequest:
    """A request as a client sends it."""
    return encode_question(Question(tail_name(model_name(bundle.manifest), k), "", sample, None))


def engine(tail: Tail, k: int, arrays: dict[str, NDArray[Any]]) -> list[int]:
    """The same work with no server; how many rows each segment ran."""
    group: Group | None = tail.begin(arrays, k)
    rows = []
    while group is not None:
        rows.append(group.size)
        decision, after = tail.step(k, group)
        staying = np.flatnonzero(~decision.leave)
        group = tail.keep(after, staying) if len(staying) else None
        k += 1
    return rows


def latency(path: str, server: Server) -> list[dict[str, Any]]:
    """One row a tail."""
    bundle = Bundle.open(path)
    tail = Tail.open(bundle, threads=1)
    rows = []
    with grpc.insecure_channel(server.address, options=[("grpc.max_send_message_length", MESSAGE_BYTES)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for k in range(len(bundle.manifest.segments)):
            samples = samples_at(tail, bundle, k)
            requests = [encoded(bundle, k, sample) for sample in samples]
            bare, asked = np.zeros(ROUNDS), np.zeros(ROUNDS)
            for i in range(-WARM_UP, ROUNDS):
                sample, request = samples[i % len(samples)], requests[i % len(samples)]
                start = time.perf_counter()
                engine(tail, k, sample)
                between = time.perf_counter()
                stub.ModelInfer(request)
                if i >= 0:
                    bare[i], asked[i] = between - start, time.perf_counter() - between
            rows.append(
                {
                    "tail": k,
                    "payload_bytes": sum(a.nbytes for a in samples[0].values()),
                    "engine_ms": 1e3 * float(np.median(bare)),
                    "server_ms": 1e3 * float(np.median(asked)),
                    "overhead_ms": 1e3 * float(np.median(asked - bare)),
                }
            )
    return rows


def cpu(path: str, server: Server) -> dict[str, Any]:
    """Sixteen clients for a while."""
    before, batches_before = cpu_s(server.process.pid), batch_counts(server)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        answered, wall_s = pool.apply(crowd, (path, server.address))
    used_s = cpu_s(server.process.pid) - before
    batches = batch_counts(server)
    rows, runs = (batches[key] - batches_before[key] for key in ("sum", "count"))
    batch = max(1, round(rows / max(1.0, runs)))
    with context.Pool(1) as pool:
        engine_s = pool.apply(engine_cpu_s, (path, batch))
    return {
        "clients": CLIENTS,
        "samples": answered,
        "samples_per_s": answered / wall_s,
        "mean_batch": rows / max(1.0, runs),
        "server_cpu_ms": 1e3 * used_s / answered,
        "engine_cpu_ms": 1e3 * engine_s,
        "server_over_engine": used_s / answered / engine_s,
    }


def crowd(path: str, address: str) -> tuple[int, float]:
    """Clients that each wait for an answer before they ask again; samples answered, and seconds."""
    bundle = Bundle.open(path)
    requests = [encoded(bundle, 0, sample) for sample in samples_at(Tail.open(bundle, threads=1), bundle, 0)]
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        start = time.perf_counter()
        answered = 0
        waiting = {stub.ModelInfer.future(requests[i % len(requests)]) for i in range(CLIENTS)}
        while waiting:
            done = next((call for call in waiting if call.done()), None) or next(iter(waiting))
            done.result()
            waiting.discard(done)
            answered += 1
            if time.perf_counter() - start < SECONDS:
                waiting.add(stub.ModelInfer.future(requests[answered % len(requests)]))
    return answered, time.perf_counter() - start


def engine_cpu_s(path: str, batch: int) -> float:
    """CPU seconds a sample of the bare engine."""
    bundle = Bundle.open(path)
    tail = Tail.open(bundle, threads=1)
    samples = samples_at(tail, bundle, 0)
    batches = [
        {name: np.concatenate([samples[(i + j) % len(samples)][name] for j in range(batch)]) for name in samples[0]}
        for i in range(len(samples))
    ]
    for arrays in batches:
        engine(tail, 0, arrays)
    start, count = time.process_time(), 0
    until = time.perf_counter() + SECONDS / 2
    while time.perf_counter() < until:
        for arrays in batches:
            engine(tail, 0, arrays)
        count += batch * len(batches)
    return (time.process_time() - start) / count


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def batch_counts(server: Server) -> dict[str, float]:
    """Rows and runs of all segments, out of the server's metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        lines = page.read().decode().splitlines()
    found = {"sum": 0.0, "count": 0.0}
    for line in lines:
        for key in found:
            if line.startswith(f"edgeexit_batch_size_{key}") or line.startswith(f"edgeexit_batch_rows_{key}"):
                found[key] += float(line.rpartition(" ")[2])
    return found


if __name__ == "__main__":
    main()
