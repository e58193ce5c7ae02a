"""`edgeexit serve` says when it listens, serves, hands on, and goes down in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult

from edgeexit.cli import main
from edgeexit_runtime import Cascade
from runtime.cascades import COMMANDS, F32, write_tiny
from runtime.server.tiers import SAFETY_S

SAMPLES = 64
RUN = "from edgeexit.cli import main; from runtime.cascades import COMMANDS; exit(main(None, COMMANDS))"


def environment() -> dict[str, str]:
    """For a process that finds what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2], *sys.path)))}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("serve") / "tiny.eexit")


@contextmanager
def process(*arguments: object) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A server process, and what it says when it listens."""
    words = [sys.executable, "-c", RUN, "serve", *map(str, arguments), "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as running:
        try:
            assert running.stdout is not None
            yield json.loads(running.stdout.readline()), running
        finally:
            running.kill()


def ask(document: dict[str, Any], samples: NDArray[np.float32]) -> InferResult:
    tensor = InferInput("x", samples.shape, "FP32")
    tensor.set_data_from_numpy(samples)
    with InferenceServerClient(document["listening"]) as client:
        return client.infer(document["models"][0], [tensor], client_timeout=SAFETY_S)


def test_a_gateway_and_a_server_give_the_answers_of_one_cascade_and_go_down_in_order(bundle: Path) -> None:
    samples = np.random.default_rng(2).standard_normal((SAMPLES, 4)).astype(F32)
    expected = Cascade.open(bundle).run(samples)
    assert len(set(expected.exit.tolist())) == 3
    with process(bundle, "--from", 1, "--name", "cloud") as (cloud, server):
        upstream = ("--upstream", f"grpc://{cloud['listening']}")
        with process(bundle, "--upto", 1, "--name", "gateway", *upstream) as (document, gateway):
            assert [model.rpartition("__")[2] for model in document["models"]] == ["from_0"]
            result = ask(document, samples)
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(SAFETY_S) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(SAFETY_S) == 0
        events = [json.loads(line)["event"] for line in (server.stderr or [])]
    assert result.as_numpy("label").tolist() == expected.label.tolist()
    assert result.as_numpy("exit").tolist() == expected.exit.tolist()
    assert not result.as_numpy("degraded").any()
    tiers = result.get_response().parameters["tier"].string_param.split(",")
    assert tiers == ["gateway" if exit_ == 0 else "cloud" for exit_ in expected.exit]
    assert events == ["listening", "draining", "stopped"]


def test_a_gateway_whose_server_is_gone_answers_itself_and_says_so(bundle: Path) -> None:
    samples = np.random.default_rng(2).standard_normal((SAMPLES, 4)).astype(F32)
    expected = Cascade.open(bundle, upto=1).run(samples)
    with process(bundle, "--upto", 1, "--upstream", "grpc://127.0.0.1:9") as (document, _):
        result = ask(document, samples)
    assert result.as_numpy("label").tolist() == expected.label.tolist()
    assert result.as_numpy("degraded").tolist() == expected.degraded.tolist()
    assert "next tier" in result.get_response().parameters["reason"].string_param


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "0.0.0.0:0"], "without TLS"),
        (["--listen", "nowhere"], "no address"),
        (["--metrics", "0.0.0.0:0"], "without TLS"),
        (["--tls-cert", "c.pem"], "belong together"),
        (["--client-ca", "c.pem"], "belong together"),
        (["--token-file", "/nowhere/tokens"], "token file"),
        (["--from", "3"], "no such tail"),
        (["--upto", "4"], "number of segments"),
        (["--upstream", "grpc://127.0.0.1:9"], "nothing is left"),
        (["--upto", "1", "--upstream", "http://127.0.0.1:9"], "no address"),
        (["--name", "a,b"], "no name"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "no.pem", "--tls-key", "no.key"], "certificates"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_listens(
    bundle: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(bundle), *arguments], COMMANDS) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("grpc", [], "edgeexit-runtime[tiers]"),
        ("tritonclient.grpc", [], "edgeexit-runtime[tiers]"),
        ("prometheus_client", [], "edgeexit-runtime[tiers]"),
        ("websockets.asyncio.server", ["--websocket", "127.0.0.1:0"], "edgeexit-runtime[websocket]"),
    ],
)
def test_a_package_that_is_missing_is_named(bundle: Path, package: str, arguments: list[str], extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; {RUN}"
    ran = subprocess.run(
        [sys.executable, "-c", code, "serve", str(bundle), "--listen", "127.0.0.1:0", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SAFETY_S,
    )
    assert ran.returncode == 6
    assert extra in ran.stderr


def test_scheduling_needs_no_network_library() -> None:
    network = {"grpc", "tritonclient", "websockets", "prometheus_client"}
    code = f"import sys, edgeexit_runtime.server.scheduler; exit(bool({network} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment(), check=False, timeout=SAFETY_S).returncode == 0
    )
