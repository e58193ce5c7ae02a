"""Whoever trusts a siege has to trust its tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import numpy as np

from edgeexit.tensors import load_tensors
from edgeexit_runtime import Cascade
from edgeexit_runtime.wire.messages import Reply
from edgeexit_runtime.wire.oip import encode_reply
from hostile import frames as h2
from hostile.flips import DAMAGES, damaged
from hostile.honest import Honest, honest_requests
from hostile.http1 import METRICS, WEBSOCKET
from hostile.http2 import GRPC
from hostile.judge import KNOWN, Judge
from hostile.marks import MARK, mark, strangers
from hostile.sockets import Attack
from hostile.structured import MUTATIONS, mutated
from hostile.tensors import nearly
from runtime.cascades import write_tiny

MODELS = ("tiny__from_0", "tiny__from_1", "tiny__from_2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tools") / "tiny")


@pytest.fixture(scope="module")
def requests(bundle: Path) -> list[list[Honest]]:
    return honest_requests(bundle, MODELS, 2, 6)


def reply_to(honest: Honest, **changed: object) -> bytes:
    n = len(honest.label)
    values: dict[str, object] = {
        "label": np.array(honest.label),
        "probability": np.array(honest.probability, np.float32),
        "exit": np.array(honest.exit),
        "score": np.zeros(n, np.float32),
        "degraded": np.zeros(n, np.bool_),
        "tier": ("server",) * n,
    }
    reply = Reply(**{**values, **changed})  # type: ignore[arg-type]
    data: bytes = encode_reply(reply, model=honest.model, request_id=honest.request_id).SerializeToString()
    return data


def test_what_the_engine_answers_is_what_a_cascade_answers(bundle: Path, requests: list[list[Honest]]) -> None:
    cascade = Cascade.open(bundle)
    for honest in (request for own in requests for request in own if request.model == MODELS[0]):
        found = cascade.run(honest.arrays["x"])
        assert honest.label == tuple(found.label.tolist())
        assert honest.exit == tuple(found.exit.tolist())


def test_no_two_good_requests_share_a_sample_or_a_mark(requests: list[list[Honest]]) -> None:
    every = [honest for own in requests for honest in own]
    assert len({honest.request_id for honest in every}) == len(every) == 12
    rows = [row.tobytes() for honest in every for row in honest.arrays["x" if honest.model != MODELS[2] else "h1"]]
    assert len(set(rows)) == len(rows)


def test_an_answer_that_is_another_s_is_noticed(requests: list[list[Honest]]) -> None:
    honest = requests[0][3]
    assert honest.misfit(reply_to(honest)) is None
    label = np.array(honest.label)
    label[1] = (label[1] + 1) % 3
    assert "row 1" in (honest.misfit(reply_to(honest, label=label)) or "")
    shifted = np.array(honest.probability, np.float32) + np.float32(1e-3)
    assert "row 0" in (honest.misfit(reply_to(honest, probability=shifted)) or "")


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_changes_what_is_asked(requests: list[list[Honest]], name: str) -> None:
    changed = 0
    for seed in range(20):
        honest = requests[0][seed % 6]
        message = type(honest.message).FromString(honest.unsigned)
        MUTATIONS[name](message, Random(seed), honest)
        changed += message.SerializeToString() != honest.unsigned
    assert changed > 0


@pytest.mark.parametrize("make", [mutated, lambda honest, random: damaged(honest.data, random), nearly])
def test_the_same_seed_attacks_alike(
    requests: list[list[Honest]], make: Callable[[Honest, Random], tuple[str, bytes | str]]
) -> None:
    def some(seed: int) -> list[tuple[str, bytes | str]]:
        random = Random(seed)
        return [make(requests[0][i % 6], random) for i in range(30)]

    assert some(1) == some(1) != some(2)


def test_damages_are_of_every_kind(requests: list[list[Honest]]) -> None:
    random = Random(0)
    names = {name for _ in range(300) for name in damaged(requests[0][0].data, random)[0].split("+")}
    assert names == DAMAGES.keys()


def test_some_messages_that_are_nearly_safetensors_are(requests: list[list[Honest]]) -> None:
    random, whole = Random(0), 0
    for _ in range(300):
        _, data = nearly(requests[0][0], random)
        try:
            whole += bool(load_tensors(data if isinstance(data, bytes) else data.encode(), "message"))
        except Exception:
            continue
    assert 0 < whole < 150


@pytest.mark.parametrize("table", [GRPC, METRICS, WEBSOCKET])
def test_every_attack_on_a_socket_writes_something_each_time_another(table: dict[str, Attack]) -> None:
    for attack in table.values():
        written = {attack(Random(seed)) for seed in range(12)}
        assert len(written) > 1


def test_marks_of_somebody_else_are_found() -> None:
    mine, theirs = mark(Random(1)), mark(Random(2))
    assert MARK.fullmatch(mine.encode())
    assert strangers(f"{mine} and {theirs}".encode(), mine.encode()) == [theirs]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("UNKNOWN", "no"),
        ("INTERNAL", "the server failed on this request"),
        ("INVALID_ARGUMENT", 'Traceback (most recent call last):\n  File "/root/x.py", line 3'),
        ("INVALID_ARGUMENT", "ValueError: no"),
        ("INVALID_ARGUMENT", "[ONNXRuntimeError] : 2"),
        ("NOT_FOUND", "there is no zq0123456789ab here"),
        ("UNIMPLEMENTED", "no"),
    ],
)
def test_what_should_not_be_is_a_finding(status: str, text: str) -> None:
    judge = Judge()
    judge.call("structured:name", status, text, b"own", KNOWN)
    assert judge.found == len(judge.findings) == 1
    assert judge.answers["structured", status] == 1


def test_what_a_client_said_itself_is_none() -> None:
    judge = Judge()
    own = b"zq0123456789ab /root/x.py ValueError"
    judge.call("flips:bits", "INVALID_ARGUMENT", own, own, KNOWN)
    judge.call("flips:bits", "INTERNAL", "Decompression failed due to zlib error", own, KNOWN)
    judge.page("metrics socket:garbage", b"HTTP/1.1 404 Not Found\r\n\r\n", own)
    assert judge.findings == []
    assert judge.grpc_s_own == {"INTERNAL: Decompression failed due to zlib error": 1}


def test_a_page_that_tells_of_the_server_s_inside_is_a_finding() -> None:
    judge = Judge()
    judge.page("metrics socket:garbage", b"HTTP/1.0 200 OK\r\nServer: WSGIServer/0.2 CPython/3.11.7\r\n\r\n", b"")
    judge.page("websocket socket:garbage", b"HTTP/1.1 500 Internal Server Error\r\n\r\n", b"")
    assert [finding.split(":")[0] for finding in judge.findings] == ["metrics socket", "websocket socket"]


def test_frames_are_those_of_http_2() -> None:
    assert h2.settings((3, 100)) == bytes.fromhex("000006 04 00 00000000 0003 00000064")
    assert h2.frame(h2.DATA, h2.END_STREAM, 5, b"ab", claimed=2**24 - 1) == bytes.fromhex("ffffff 00 01 00000005 6162")
    assert h2.grpc_message(b"abc", compressed=1) == bytes.fromhex("01 00000003 616263")


def test_headers_are_those_of_hpack() -> None:
    assert h2.header(b"te", b"trailers") == b"\x00\x02te\x08trailers"
    assert h2.header(b"x", b"y" * 1337)[:6] == b"\x00\x01x\x7f\xba\x09"  # RFC 7541, C.1.2, with seven bits
