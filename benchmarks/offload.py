"""Is it quicker to answer on the device, on the server, or to begin here and hand on what is hard?

For links of 1, 10 and 100 Mbit/s, and a device as quick as the server and one that is several times slower: the time
until the answer, bytes on the wire and accuracy of each way, one sample at a time. The cascade is cut where
`edgeexit plan` finds best, from profiles of both sides; what it foretells stands beside what was measured. As the
round trip it is given what a sample takes to be asked and answered beside the server's own time when the link has no
limit, since a device that is slow at computing is slow at writing messages too; `foretold_ms_with_bare_round_trip` is
with that of an empty message. `planned` is what the plan prefers to the others, which need not be the cascade.

    python benchmarks/offload.py resnet56=R56 resnet18=R18 --data CIFAR/test --data OUT/data/test

Device and server are network namespaces with a shaped link between them, and have a core each, before whatever else
may run there. It takes root, two cores, and `ip` and `tc`. The slower device is the same core with less of its time,
see `benchmarks/slowed.py`; how much slower it is, is measured on the cascade, and its profile is the other one times
that. `benchmarks/models.py` makes OUT. For each bundle the first DATA whose class folders are the model's labels is
taken.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
import msgspec
import numpy as np
from links import DOWN, UP, Node, chain, why_not
from slowed import slowed

from edgeexit.bundle import Bundle
from edgeexit.profiles import Profile
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.planning import Alternative, Link, Scenario, alternatives, best, best_of_each, gather

DEVICE_CORE, SERVER_CORE = 0, 1
FIRST = -19
HERE = Path(__file__).parent
WAYS = ("local", "remote", "cascade", "quicker")
Row = dict[str, Any]


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--data", multiple=True, required=True, type=click.Path(exists=True), help="Pictures in class folders.")
@click.option("--samples", default=200, show_default=True, help="For each row.")
@click.option("--seconds", default=40.0, show_default=True, help="For each row; then the other samples are left out.")
@click.option("--mbit", default="1,10,100", show_default=True, help="Bandwidths, Mbit/s, of both directions.")
@click.option("--slower", default="1,8", show_default=True, help="How many times slower the device is made.")
@click.option("--profile-seconds", default=3.0, show_default=True, help="For each profile.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "offload.json")
def main(
    bundles: tuple[str, ...],
    data: tuple[str, ...],
    samples: int,
    seconds: float,
    mbit: str,
    slower: str,
    profile_seconds: float,
    out: Path,
) -> None:
    """Measure, write one JSON document and print the table."""
    if reason := why_not():
        raise click.ClickException(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up then too
    asked = {"samples": samples, "seconds": seconds, "slower": slower}
    document: Row = {"machine": describe_machine(), **asked, "bundles": {}}
    for name, _, path in (pair.partition("=") for pair in bundles):
        rows = document["bundles"][name] = []
        with (
            chain([1]) as (device, server),
            serving(path, server) as url,
            Device(path, url, data, samples, device) as there,
        ):
            server_profile, server_ms = there.profile(profile_seconds), there.asked("pace")
            for times in map(float, slower.split(",")):
                shape(device, server, None)
                with slowed(DEVICE_CORE, times):
                    profile = scaled(server_profile, 1 if times == 1 else there.asked("pace") / server_ms)
                    overheads = there.asked("overheads")
                for bandwidth in map(float, mbit.split(",")):
                    shape(device, server, bandwidth)
                    with slowed(DEVICE_CORE, times):
                        row = measured(path, [profile, server_profile], bandwidth, overheads, there, seconds)
                    rows.append(row)
                    print(f"{name}: {bandwidth:g} Mbit/s, {row['device_slower']:.1f} times slower", file=sys.stderr)
                    out.write_text(json.dumps(document, indent=1) + "\n")
    print_table(document["bundles"])


def scaled(profile: Profile, times: float) -> Profile:
    """The profile of a device that is so many times slower."""
    return msgspec.structs.replace(profile, exits_ms=tuple(times * ms for ms in profile.exits_ms))


def shape(device: Node, server: Node, mbit_s: float | None) -> None:
    device.shape(UP, mbit_s)
    server.shape(DOWN, mbit_s)


def started(node: Node, core: int, *words: object) -> subprocess.Popen[str]:
    """A process in a namespace that has a core before whatever else may want it."""
    line = node.command("nice", "-n", FIRST, "taskset", "-c", core, sys.executable, *words)
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    group = Path(f"/proc/{process.pid}/autogroup")  # where there are such, nice counts within a session only
    if group.exists():
        group.write_text(str(FIRST))
    return process


@contextmanager
def serving(path: str, node: Node) -> Iterator[str]:
    """`edgeexit serve` in a namespace; its URL."""
    options = ("--from", 0, "--threads", 1, "--listen", f"{node.address}:0", "--insecure", "--json")
    with started(node, SERVER_CORE, "-m", "edgeexit", "serve", path, *options) as process:
        try:
            assert process.stdout is not None
            yield f"grpc://{json.loads(process.stdout.readline())['listening']}"
        finally:
            process.terminate()


class Device:
    """`benchmarks/offload_device.py` in a namespace."""

    def __init__(self, path: str, url: str, data: Sequence[str], samples: int, node: Node) -> None:
        self._process = started(node, DEVICE_CORE, HERE / "offload_device.py", path, url, samples, *data)

    def __enter__(self) -> Device:
        self._heard()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()

    def profile(self, seconds: float) -> Profile:
        return msgspec.convert(self.asked("profile", seconds=seconds), Profile)

    def asked(self, order: str, **options: Any) -> Any:
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps([order, options]) + "\n")
        pipe.flush()
        return self._heard()

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("the device's process failed; what it said is above")
        return json.loads(line)


def measured(
    path: str, profiles: Sequence[Profile], mbit_s: float, overheads: dict[str, float], device: Device, seconds: float
) -> Row:
    """A row: a link, a device, and all ways."""
    bundle = Bundle.open(path)
    bare, scenario = (gather(bundle, profiles, [Link(mbit_s, overheads[key])]) for key in ("rtt_ms", "message_ms"))
    cuts = planned(scenario)
    split = min((cut for cut in cuts if 0 < cut < scenario.count), key=lambda cut: cuts[cut].latency_ms)
    found = device.asked("measure", upto=split, seconds=seconds)
    records = found["ways"]
    count = len(records["local"]["ms"])
    shares = np.bincount(records["local"]["exit"], minlength=scenario.count) / count
    bare_cuts, same_exits = planned(bare), planned(replace(scenario, shares=tuple(shares.tolist())))
    ways = {}
    for name, cut in zip(WAYS, (scenario.count, 0, split, split), strict=True):
        (payload,) = cuts[cut].payloads
        ways[name] = {
            **summary(records[name], records["local"], found["labels"]),
            "foretold_ms": cuts[cut].latency_ms,
            "foretold_ms_with_these_exits": same_exits[cut].latency_ms,
            "foretold_ms_with_bare_round_trip": bare_cuts[cut].latency_ms,
            "foretold_sent_bytes": cuts[cut].sent_bytes[0],
            "foretold_payload": None if payload is None else payload.precision,
        }
    planned_way = way_of(best(list(cuts.values()), "latency"), scenario)
    means = {name: way["mean_ms"] for name, way in ways.items()}
    slower = max(WAYS[:2], key=means.__getitem__)
    return {
        "mbit_s": mbit_s,
        **overheads,
        "device_slower": profiles[0].exits_ms[-1] / profiles[1].exits_ms[-1],
        "samples": count,
        "upto": split,
        "exit_shares": shares.tolist(),
        "ways": ways,
        "behind": {way: behind(records[way], records[slower]) for way in WAYS[2:]},
        "quickest": min(means, key=means.__getitem__),
        "planned": planned_way,
        "planned_ms": means[planned_way],
    }


def behind(record: Row, slower: Row) -> Row:
    """How far a way is behind the slower of all here and all on the server, in ms with the standard error."""
    behind_ms = np.subtract(record["ms"], slower["ms"])
    mean_ms = float(behind_ms.mean())
    return {"both": mean_ms > 0, "ms": mean_ms, "error_ms": float(behind_ms.std(ddof=1) / len(behind_ms) ** 0.5)}


def planned(scenario: Scenario) -> dict[int, Alternative]:
    """For each cut the quickest alternative."""
    return {one.cuts[0]: one for one in best_of_each(alternatives(scenario), "latency")}


def way_of(one: Alternative, scenario: Scenario) -> str:
    return {0: "remote", scenario.count: "local"}.get(one.cuts[0], "cascade")


def summary(record: Row, local: Row, labels: Sequence[int] | None) -> Row:
    """Figures of one way; times in ms, bytes a sample, both directions' headers included."""
    count = len(record["ms"])
    told = np.array(record["label"])
    return {
        "mean_ms": float(np.mean(record["ms"])),
        "median_ms": float(np.median(record["ms"])),
        "p95_ms": float(np.percentile(record["ms"], 95)),
        "sent_bytes": record["up_bytes"] / count,
        "received_bytes": record["down_bytes"] / count,
        "accuracy": None if labels is None else float(np.mean(told == labels[:count])),
        "same_answer": float(np.mean((told == local["label"]) & (np.array(record["exit"]) == local["exit"]))),
        "resolved_here": record["tier"].count("local") / count,
        "degraded": sum(record["degraded"]),
        "payloads": record["payloads"],
        "mbit_s_learned": record["mbit_s"],
    }


def print_table(bundles: dict[str, list[Row]]) -> None:
    """The table as Markdown: of each way mean / median / p95, and bytes both ways."""
    headings = tuple(f"{way} ms" for way in WAYS)
    columns = (
        "bundle",
        "device",
        "link",
        "cut",
        *headings,
        "bytes remote",
        "bytes cascade",
        "bytes quicker",
        "here",
        "plan",
    )
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for name, rows in bundles.items():
        for row in rows:
            ways = row["ways"]
            times = (" / ".join(f"{ways[way][f'{key}_ms']:.1f}" for key in ("mean", "median", "p95")) for way in WAYS)
            sizes = (f"{ways[way]['sent_bytes'] + ways[way]['received_bytes']:.0f}" for way in WAYS[1:])
            place = f"{row['device_slower']:.1f} × | {row['mbit_s']:g} Mbit/s | {row['upto']}"
            late = [way for way, found in row["behind"].items() if found["both"]]
            mark = f" **behind both: {', '.join(late)}**" if late else ""
            here = f"{ways['cascade']['resolved_here']:.0%}"
            print(f"| {name} | {' | '.join([place, *times, *sizes, here, row['planned']])}{mark} |")


if __name__ == "__main__":
    main()
