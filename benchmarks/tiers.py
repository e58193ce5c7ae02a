"""What does the embedded server cost over the bare engine?

Two questions, each against the same segments run in a process with no server:

latency   one client, one request at a time, batch 1, for every tail of the bundle: milliseconds over the engine's own.
cpu       sixteen clients, each with one request of one sample in flight: CPU seconds of the server process a
          sample, over those of the bare engine at the mean batch size that the server reached; the engine once alone
          and once while another process keeps the other core busy, as the clients do.

Both also of an echo: a grpc.aio server that reads no request and answers with constant bytes. It is what the protocol
takes by itself.

    python benchmarks/tiers.py resnet56=R56 [resnet20=R20]

The server is `edgeexit serve` in a process of its own, on loopback; clients are bare gRPC stubs with requests that
were encoded beforehand, in this process (latency) or in one of their own (cpu).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
SECONDS, TURNS = 3.0, 8
ROUNDS, WARM_UP = 300, 30
TICKS = os.sysconf("SC_CLK_TCK")
MESSAGE_BYTES = 64 << 20
SERVICE = "inference.GRPCInferenceService"
ECHO: bytes = service_pb2.ModelInferResponse(raw_output_contents=[bytes(240)]).SerializeToString()


class Server(NamedTuple):
    """A server process."""

    process: Any
    address: str
    metrics: str


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "tiers.json")
def main(bundles: tuple[str, ...], out: Path) -> None:
    """Measure and write one JSON document."""
    document: dict[str, Any] = {"machine": describe_machine(), "bundles": {}}
    for name, _, path in (pair.partition("=") for pair in bundles):
        with served(path) as server, echoing() as echo:
            document["bundles"][name] = {"latency": latency(path, server, echo), "cpu": cpu(path, server, echo)}
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


@contextmanager
def echoing() -> Iterator[Server]:
    """A server that does nothing, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    process = context.Process(target=echo_server, args=(said,), daemon=True)
    process.start()
    try:
        yield Server(process, said.get(), "")
    finally:
        process.terminate()
        process.join(30)


def echo_server(said: Any) -> None:
    """Answer every call of `ModelInfer` with the same bytes."""

    async def echo(data: bytes, context: Any) -> bytes:
        return ECHO

    async def serve() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES)])
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        said.put(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(serve())


def latency(path: str, server: Server, echo: Server) -> list[dict[str, Any]]:
    """One row a tail."""
    bundle = Bundle.open(path)
    tail = Tail.open(bundle, threads=1)
    rows = []
    options = [("grpc.max_send_message_length", MESSAGE_BYTES)]
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(s.address, options=options)) for s in (server, echo)]
        ask, ask_echo = (service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer for channel in channels)
        for k in range(len(bundle.manifest.segments)):
            samples = samples_at(tail, bundle, k)
            requests = [encoded(bundle, k, sample) for sample in samples]
            times = np.zeros((ROUNDS + WARM_UP, 3))
            for i in range(len(times)):
                sample, request = samples[i % len(samples)], requests[i % len(samples)]
                start = time.perf_counter()
                engine(tail, k, sample)
                ran = time.perf_counter()
                ask(request)
                asked = time.perf_counter()
                ask_echo(request)
                times[i] = ran - start, asked - ran, time.perf_counter() - asked
            bare, served_s, echoed = times[WARM_UP:].T
            rows.append(
                {
                    "tail": k,
                    "payload_bytes": sum(a.nbytes for a in samples[0].values()),
                    "engine_ms": 1e3 * float(np.median(bare)),
                    "server_ms": 1e3 * float(np.median(served_s)),
                    "overhead_ms": 1e3 * float(np.median(served_s - bare)),
                    "echo_ms": 1e3 * float(np.median(echoed)),
                }
            )
    return rows


def cpu(path: str, server: Server, echo: Server) -> dict[str, Any]:
    """Sixteen clients for a while, in turns with the engine and the echo."""
    context = multiprocessing.get_context("spawn")
    rounds: list[dict[str, float]] = []
    answered, wall_s, rows, runs = 0, 0.0, 0.0, 0.0
    with context.Pool(1) as clients, context.Pool(1) as bare:
        clients.apply(crowd, (path, server.address, 1.0))
        for _ in range(TURNS):
            before_s, batches_before = cpu_s(server.process.pid), batch_counts(server)
            count, took_s = clients.apply(crowd, (path, server.address, SECONDS))
            server_ms = 1e3 * (cpu_s(server.process.pid) - before_s) / count
            batches = batch_counts(server)
            rows, runs = (
                rows + batches["sum"] - batches_before["sum"],
                runs + batches["count"] - batches_before["count"],
            )
            answered, wall_s = answered + count, wall_s + took_s
            before_s = cpu_s(echo.process.pid)
            echoed, _ = clients.apply(crowd, (path, echo.address, SECONDS / 2))
            echo_ms = 1e3 * (cpu_s(echo.process.pid) - before_s) / echoed
            batch = max(1, round(rows / max(1.0, runs)))
            alone_ms = 1e3 * bare.apply(engine_cpu_s, (path, batch, SECONDS / 2))
            with busy(context):
                beside_ms = 1e3 * bare.apply(engine_cpu_s, (path, batch, SECONDS / 2))
            rounds.append({"server": server_ms, "echo": echo_ms, "engine": alone_ms, "engine_beside": beside_ms})
    medians = {f"{name}_cpu_ms": statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {
        "clients": CLIENTS,
        "samples": answered,
        "samples_per_s": answered / wall_s,
        "mean_batch": rows / max(1.0, runs),
        **medians,
        "server_over_engine": statistics.median(one["server"] / one["engine"] for one in rounds),
        "server_over_engine_beside": statistics.median(one["server"] / one["engine_beside"] for one in rounds),
    }


@contextmanager
def busy(context: Any) -> Iterator[None]:
    """A process that keeps a core busy."""
    process = context.Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(30)


def spin() -> None:
    """Parse and write messages as long as the process lives."""
    request = service_pb2.ModelInferRequest(model_name="x", raw_input_contents=[bytes(4096)])
    while True:
        service_pb2.ModelInferRequest.FromString(request.SerializeToString())


def crowd(path: str, address: str, seconds: float) -> tuple[int, float]:
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
            if time.perf_counter() - start < seconds:
                waiting.add(stub.ModelInfer.future(requests[answered % len(requests)]))
    return answered, time.perf_counter() - start


def engine_cpu_s(path: str, batch: int, seconds: float) -> float:
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
    until = time.perf_counter() + seconds
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
