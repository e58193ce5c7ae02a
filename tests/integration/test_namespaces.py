"""Device, gateway and server as three network namespaces: what one cascade answers, over links that take their time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.tails import boundary
from edgeexit_runtime.cascade import Cascade
from runtime.cascades import EXITS, F32, write_tiny

pytest.importorskip("tritonclient.grpc")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MBIT_S = (10.0, 100.0)
N = 200
FIRST_OF_GATEWAY, FIRST_OF_SERVER = 1, 2


@pytest.fixture(scope="module")
def links() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module("links")
        reason = module.why_not()
        if reason is not None:
            pytest.skip(reason)
        yield module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("namespaces") / "tiny")


@pytest.fixture(scope="module")
def samples() -> Any:
    return np.random.default_rng(4).standard_normal((N, 4)).astype(F32)


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@contextmanager
def serving(node: Any, bundle: Path, *options: object) -> Iterator[str]:
    """`edgeexit serve` in a namespace, for other machines; its URL. It has to end with exit code 0."""
    listen = ("--listen", f"{node.address}:0", "--insecure", "--json")
    line = node.command(sys.executable, "-m", "edgeexit", "serve", bundle, *listen, *options)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, process.communicate()[1]
        yield f"grpc://{json.loads(said)['listening']}"
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def on_the_device(node: Any, bundle: Path, *options: object) -> list[Any]:
    """The lines that `edgeexit run` prints in a namespace."""
    line = node.command(sys.executable, "-m", "edgeexit", "run", bundle, *options)
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


@pytest.mark.parametrize("batch", [1, 16])
def test_three_namespaces_give_the_labels_and_exits_of_one_cascade(
    links: Any, bundle: Path, samples: Any, tmp_path: Path, batch: int
) -> None:
    np.savez(tmp_path / "some.npz", x=samples)
    expected = Cascade.open(bundle).run(samples)
    assert set(expected.exit.tolist()) == set(range(EXITS))
    ways = ("--payload", "boundary", "--payload-precision", "fp32", "--deadline-ms", 60_000, "--batch", batch)
    first = ("--from", FIRST_OF_GATEWAY, "--upto", FIRST_OF_SERVER, "--name", "gateway")
    with (
        links.chain(MBIT_S) as (device, gateway, server),
        serving(server, bundle, "--from", FIRST_OF_SERVER) as further,
        serving(gateway, bundle, *first, "--upstream", further) as url,
    ):
        there = ("--upto", FIRST_OF_GATEWAY, "--offload", url, *ways)
        lines = on_the_device(device, bundle, tmp_path / "some.npz", *there)
        crossed = [node.counters(links.UP).sent_bytes for node in (device, gateway)]
    found = {line["input"]: line for line in lines}
    assert len(found) == len(lines) == N
    manifest = Bundle.open(bundle).manifest
    for i in range(N):
        line = found[f"{tmp_path / 'some.npz'}[{i}]"]
        k = int(expected.exit[i])
        assert line == {
            **line,
            "label": manifest.labels[expected.label[i]],
            "exit": manifest.exits[k].name,
            "degraded": False,
            "tier": ("local", "gateway", "server")[k],
        }
    exits = Counter(expected.exit.tolist())
    sizes = [sum(spec.size_bytes for spec in boundary(manifest, k)) for k in (FIRST_OF_GATEWAY, FIRST_OF_SERVER)]
    assert crossed[0] > (exits[1] + exits[2]) * sizes[0]
    assert crossed[1] > exits[2] * sizes[1]


def test_a_device_cannot_pass_by_the_gateway(links: Any) -> None:
    with links.chain(MBIT_S) as (device, gateway, server):
        routes = [
            subprocess.run(node.command("ip", "route", "get", server.address), capture_output=True, check=False)
            for node in (device, gateway)
        ]
    assert [done.returncode == 0 for done in routes] == [False, True]


def test_namespaces_are_gone_after_a_failure(links: Any) -> None:
    names: list[str] = []

    def fail() -> None:
        with links.chain([1]) as nodes:
            names.extend(node.name for node in nodes)
            assert all(name in namespaces() for name in names)
            raise links.LinkError("refused")

    with pytest.raises(links.LinkError, match="refused"):
        fail()
    assert len(names) == 2
    assert not any(name in namespaces() for name in names)
