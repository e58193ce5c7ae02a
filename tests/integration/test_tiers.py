"""Device, gateway and server as processes: what one cascade answers, and an answer to everything when they fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit_runtime.answers import Answers
from faults.certificates import write_certificate
from faults.proxy import FaultProxy, Faults
from faults.trial import Outcome, Served, expected_answers, trial
from runtime.cascades import EXITS, F32, write_tiny

pytest.importorskip("tritonclient.grpc")

N = 200
UPTO = 1
PATIENCE_S = 20
FAULTS = {
    "delay": Faults(delay=0.2, delay_s=0.03),
    "drop": Faults(drop=0.02),
    "reset": Faults(reset=0.02),
    "black hole": Faults(black_hole=0.02),
    "truncate": Faults(truncate=0.02),
    "duplicate": Faults(duplicate=0.05),
    "corrupt": Faults(corrupt=0.02),
    "all": Faults(*(0.005,) * 5, corrupt=0.005, duplicate=0.005),
}

Expected = tuple[Answers, Answers]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiers") / "tiny")


@pytest.fixture(scope="module")
def samples() -> Any:
    return np.random.default_rng(4).standard_normal((N, 4)).astype(F32)


@pytest.fixture(scope="module")
def expected(bundle: Path, samples: Any) -> Expected:
    found = expected_answers(bundle, samples, UPTO)
    assert set(found[0].exit.tolist()) == set(range(EXITS))
    return found


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Served]:
    with Served(bundle, "--from", UPTO) as served:
        yield served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("cryptography")
    return write_certificate(tmp_path_factory.mktemp("certificates"))


def on_the_device(bundle: Path, *options: object) -> tuple[list[Any], str]:
    """What `edgeexit run` prints in a process of its own: its lines, and its standard error."""
    line = [sys.executable, "-m", "edgeexit", "run", str(bundle), *map(str, options)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()], done.stderr


def cut(x: Any, size: int) -> list[Any]:
    return [x[start : start + size] for start in range(0, len(x), size)]


def paced(batches: Iterable[Any]) -> Iterator[Any]:
    """As they come from a camera: with a pause before each."""
    for batch in batches:
        time.sleep(0.002)
        yield batch


def check_answered(outcome: Outcome) -> None:
    assert (outcome.lost, outcome.twice, outcome.wrong) == (0, 0, 0), outcome
    assert outcome.tiers.total() + outcome.reasons.total() == outcome.samples


@pytest.mark.parametrize(("batch", "payload"), [(1, "boundary"), (16, "input")])
def test_device_gateway_and_server_give_the_labels_and_exits_of_one_cascade(
    bundle: Path, samples: Any, expected: Expected, tmp_path: Path, batch: int, payload: str
) -> None:
    np.savez(tmp_path / "some.npz", x=samples)
    first = 0 if payload == "input" else UPTO
    ways = ("--payload", payload, "--payload-precision", "fp32", "--deadline-ms", 60_000)
    with (
        Served(bundle, "--from", UPTO + 1) as server,
        Served(bundle, "--from", first, "--upto", UPTO + 1, "--name", "gateway", "--upstream", server.url) as gateway,
    ):
        there = ("--upto", UPTO, "--offload", gateway.url, *ways)
        lines, said = on_the_device(bundle, tmp_path / "some.npz", "--batch", batch, *there)
        assert (gateway.stop(), server.stop()) == (0, 0)
    found = {line["input"]: line for line in lines}
    assert len(found) == len(lines) == N
    manifest = Bundle.open(bundle).manifest
    for i in range(N):
        line = found[f"{tmp_path / 'some.npz'}[{i}]"]
        k = int(expected[0].exit[i])
        assert (line["label"], line["exit"], line["degraded"]) == (
            manifest.labels[expected[0].label[i]],
            manifest.exits[k].name,
            False,
        )
        assert line["tier"] == ("local", "gateway", "server")[k]
    assert f"answered {N}: gateway " in said


def test_a_device_whose_server_is_not_there_answers_everything(bundle: Path, samples: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", x=samples[:20])
    with FaultProxy(("127.0.0.1", 1)) as nobody:
        url = "grpc://{}:{}".format(*nobody.address)
        lines, _ = on_the_device(bundle, tmp_path / "some.npz", "--upto", UPTO, "--offload", url, "--deadline-ms", 200)
    assert len({line["input"] for line in lines}) == len(lines) == 20
    assert {line["reason"] for line in lines if line["degraded"]} <= {"unavailable", "circuit open", "deadline"}
    assert any(line["degraded"] for line in lines)


@pytest.mark.parametrize("kind", FAULTS)
def test_on_a_faulty_way_every_sample_is_answered_once_and_never_wrong(
    bundle: Path, server: Served, samples: Any, expected: Expected, kind: str
) -> None:
    with FaultProxy(server.address, FAULTS[kind], seed=7) as proxy:
        url = server.through(proxy.address)
        outcome = trial(bundle, url, paced(cut(samples, 1)), expected, upto=UPTO, deadline_ms=250)
    check_answered(outcome)
    assert outcome.tiers["server"] > 0
    assert sum(proxy.counts.values()) > proxy.counts["connections"]


@pytest.mark.parametrize("kind", ["corrupt", "all"])
def test_with_tls_bits_that_flip_change_no_answer(
    bundle: Path, samples: Any, expected: Expected, certificate: tuple[Path, Path], kind: str
) -> None:
    tls = ("--tls-cert", certificate[0], "--tls-key", certificate[1])
    with Served(bundle, "--from", UPTO, *tls) as server, FaultProxy(server.address, FAULTS[kind], seed=11) as proxy:
        url, ca = server.through(proxy.address), certificate[0]
        outcome = trial(bundle, url, paced(cut(samples, 1)), expected, upto=UPTO, deadline_ms=250, ca=ca)
    check_answered(outcome)
    assert proxy.counts["corrupt"] > 0


@pytest.mark.parametrize("finish", [False, True])
def test_a_server_that_is_killed_and_started_again_loses_nobody(
    bundle: Path, samples: Any, expected: Expected, finish: bool
) -> None:
    """The stream goes on until the server answered, was missed, and answers again."""
    served = Served(bundle, "--from", UPTO)
    outcome = Outcome()

    def upstream() -> int:
        return outcome.tiers["server"]

    def here() -> int:
        return outcome.tiers["local"] + outcome.reasons.total()

    def batches() -> Iterator[Any]:
        nonlocal served
        for _ in range(1 if finish else 2):
            yield from until(upstream, 1)
            served.kill()
            yield from until(here, here() + N)
            served = Served(bundle, "--from", UPTO)
            proxy.target = served.address
            yield from until(upstream, upstream() + 1)

    def until(count: Callable[[], int], enough: int) -> Iterator[Any]:
        before_s = time.monotonic()
        while count() < enough and time.monotonic() < before_s + PATIENCE_S:
            yield from paced(cut(samples, 4))

    with FaultProxy(served.address) as proxy:
        url = served.through(proxy.address)
        more = {"deadline_ms": 300.0, "finish": finish, "outcome": outcome}
        trial(bundle, url, batches(), expected, upto=UPTO, **more)
    with served:
        check_answered(outcome)
    assert outcome.tiers["server"] > 0
    assert finish or outcome.reasons.total() > 0
