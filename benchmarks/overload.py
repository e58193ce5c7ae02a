"""What does a server do that is asked for five times as much as it can do, and does it grow in a quarter of an hour?

    python benchmarks/overload.py resnet56=R56              overload
    python benchmarks/overload.py resnet56=R56 --soak 15    minutes of ordinary load

overload  For requests of 1, 4 and 8 samples: capacity, with 32 clients that each wait for their answer, before and
          after; then five times that rate, at random times that do not depend on the answers, each request with a
          deadline. Latencies count from when a request should have been sent.
soak      Seven tenths of the capacity, with clients that come and go, requests of 1, 4 and 8 samples, requests that
          make no sense, and deadlines that cannot be kept. Memory and open files of the server every ten seconds.

The server is `edgeexit serve` in a process of its own with one thread for the engine, on loopback; the load is made
by `grpc_load` in this process. Both share the machine's processors: what refusals cost the server is lost for answers.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from grpc_load import Call, Target, closed_loop, open_loop
from tiers import Server, cpu_s, samples_at, served

from edgeexit.bundle import Bundle
from edgeexit.tails import model_name, tail_name
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Question
from edgeexit_runtime.wire.oip import encode_question

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CLIENTS = 32
TIMES = 5
PATIENT_S = 10.0
CAPACITY_S = 5.0
ROWS = (1, 4, 8)
SOAK_SHARE = 0.7
ROUND_S = 5.0
EVERY_S = 10.0
HASTY_S = 0.005
MIB = 1 << 20


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--rows", default=",".join(map(str, ROWS)), show_default=True, help="Samples in a request.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each overload.")
@click.option("--deadline-ms", default=300.0, show_default=True)
@click.option("--soak", "soak_minutes", default=0.0, help="Minutes; nothing else is measured then.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "overload.json")
def main(
    bundles: tuple[str, ...], rows: str, seconds: float, deadline_ms: float, soak_minutes: float, out: Path
) -> None:
    """Measure, and write one JSON document; what it says of the other question stays."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document["machine"] = describe_machine()
    for name, _, path in (pair.partition("=") for pair in bundles):
        if soak_minutes:
            found: Any = soak(path, soak_minutes)
        else:
            found = [overload(path, int(count), seconds, deadline_ms / 1e3) for count in rows.split(",")]
        document.setdefault("soak" if soak_minutes else "overload", {})[name] = found
        print(json.dumps(found, indent=1), file=sys.stderr)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def overload(path: str, rows: int, seconds: float, deadline_s: float) -> dict[str, Any]:
    """One server, requests of so many samples."""
    requests = messages(path, rows)
    rng = random.Random(0)
    with served(path) as server:
        patient = target(server, PATIENT_S)
        closed_loop(patient, requests, CLIENTS, 1.0)
        before = capacity(patient, requests)
        rate = TIMES * before
        with watched(server) as watch:
            server_s, own_s, start_s = cpu_s(server.process.pid), time.process_time(), time.perf_counter()
            calls = open_loop(target(server, deadline_s), requests, gaps(rate, rng), seconds)
            took_s = time.perf_counter() - start_s
            server_s, own_s = cpu_s(server.process.pid) - server_s, time.process_time() - own_s
        after = capacity(patient, requests)
    ends = Counter(call.status for call in calls)
    answered = [call for call in calls if call.status == "OK"]
    refused = [call for call in calls if call.status in ("RESOURCE_EXHAUSTED", "CANCELLED")]
    admitted = len(calls) - len(refused)
    return {
        "rows": rows,
        "deadline_ms": 1e3 * deadline_s,
        "capacity_per_s": [before, after],
        "offered_per_s": len(calls) / seconds,
        "answered_per_s": len(answered) / seconds,
        "goodput_over_capacity": len(answered) / seconds / ((before + after) / 2),
        "ends": dict(ends),
        "missed_share": (admitted - len(answered)) / max(1, admitted),
        "refused_share": len(refused) / len(calls),
        "answered_ms": quantiles_ms(answered),
        "answered_since_sent_ms": quantiles_ms(answered, since="sent_s"),
        "refused_ms": quantiles_ms(refused),
        "sent_late_ms": quantiles_of([1e3 * (call.sent_s - call.due_s) for call in calls]),
        "server_cpu_share": server_s / took_s,
        "generator_cpu_share": own_s / took_s,
        "most_waiting_rows": max(watch.waiting),
        "rss_mib": {"start": watch.rss_mib[0], "peak": max(watch.rss_mib), "end": watch.rss_mib[-1]},
    }


def soak(path: str, minutes: float) -> dict[str, Any]:
    """Ordinary load for a while, with everything that clients do."""
    rng = random.Random(0)
    good = [message for rows in ROWS for message in messages(path, rows)]
    mixed = good * 4 + nonsense(good[0])
    rng.shuffle(mixed)
    ends: Counter[str] = Counter()
    with served(path) as server:
        rate = SOAK_SHARE * max(capacity(target(server, PATIENT_S), good) for _ in range(3))
        with watched(server, EVERY_S) as watch:
            until_s = time.monotonic() + 60 * minutes
            while time.monotonic() < until_s:
                deadline_s = HASTY_S if rng.random() < 0.1 else rng.choice((0.3, 1.0, 5.0))
                calls = open_loop(
                    target(server, deadline_s), mixed, gaps(rate, rng), ROUND_S, connections=rng.randint(1, 16)
                )
                ends.update(call.status for call in calls)
    settled = slice(len(watch.rss_mib) // 3, None)
    times_h = [time_s / 3600 for time_s in watch.times_s[settled]]
    return {
        "minutes": minutes,
        "offered_per_s": rate,
        "ends": dict(ends),
        "rss_mib": [round(value, 2) for value in watch.rss_mib],
        "rss_growth_mib_per_hour": float(np.polyfit(times_h, watch.rss_mib[settled], 1)[0]),
        "open_files": {"start": watch.files[0], "most": max(watch.files), "end": watch.files[-1]},
        "threads": {"start": watch.threads[0], "end": watch.threads[-1]},
    }


@dataclass
class Watch:
    """What was seen of a server, from the first look to the last."""

    times_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def look(self, server: Server) -> None:
        """Look once."""
        process = Path("/proc", str(server.process.pid))
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        self.times_s.append(time.monotonic())
        self.rss_mib.append(int(status["VmRSS"].split()[0]) / 1024)
        self.threads.append(int(status["Threads"]))
        self.files.append(sum(1 for _ in (process / "fd").iterdir()))
        self.waiting.append(waiting_rows(server))


@contextmanager
def watched(server: Server, every_s: float = 0.5) -> Iterator[Watch]:
    """Look at a server again and again, and once more in the end."""
    watch, over = Watch(), threading.Event()

    def look_on() -> None:
        while not over.wait(every_s):
            watch.look(server)

    watch.look(server)
    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look(server)


def messages(path: str, rows: int) -> list[bytes]:
    """Requests of so many of the bundle's golden samples, for the whole cascade."""
    bundle = Bundle.open(path)
    samples = samples_at(Tail.open(bundle, threads=1), bundle, 0)
    name = tail_name(model_name(bundle.manifest), 0)
    found = []
    for i in range(len(samples)):
        chosen = [samples[(i + j) % len(samples)] for j in range(rows)]
        arrays = {key: np.concatenate([sample[key] for sample in chosen]) for key in chosen[0]}
        found.append(encode_question(Question(name, "", arrays, None)).SerializeToString())
    return found


def nonsense(message: bytes) -> list[bytes]:
    """Requests that no server answers."""
    return [b"", message[: len(message) // 2], bytes(reversed(message)), message + b"\xff" * 7]


def target(server: Server, deadline_s: float) -> Target:
    """The server's one call that matters."""
    host, _, port = server.address.rpartition(":")
    return Target(host, int(port), METHOD, deadline_s)


def capacity(patient: Target, requests: Sequence[bytes]) -> float:
    """Requests a second that are answered when nobody asks for more than that."""
    start_s = time.perf_counter()
    calls = closed_loop(patient, requests, CLIENTS, CAPACITY_S)
    return sum(call.status == "OK" for call in calls) / (time.perf_counter() - start_s)


def gaps(rate: float, rng: random.Random) -> Iterator[float]:
    """Times between requests that know nothing of each other."""
    draw: Callable[[], float] = lambda: rng.expovariate(rate)  # noqa: E731
    return iter(draw, None)


def waiting_rows(server: Server) -> float:
    """Samples in all queues, out of the server's metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("edgeexit_queue_rows{"))


def quantiles_ms(calls: Sequence[Call], since: str = "due_s") -> dict[str, float] | None:
    """Of the time to their ends."""
    return quantiles_of([1e3 * (call.ended_s - getattr(call, since)) for call in calls])


def quantiles_of(values: Sequence[float]) -> dict[str, float] | None:
    """The middle, the last hundredth and the largest."""
    if not values:
        return None
    p50, p99, largest = np.quantile(values, [0.5, 0.99, 1.0]).tolist()
    return {"p50": p50, "p99": p99, "max": largest}


if __name__ == "__main__":
    main()
