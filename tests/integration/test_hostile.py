"""A server under attack answers with statuses of the protocol, keeps serving, and tells nobody anything of others."""

from __future__ import annotations

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")
pytest.importorskip("websockets", reason="needs edgeexit-runtime[websocket]")

from hostile.attackers import WEIGHTS
from hostile.judge import OVERLOADED
from hostile.siege import Outcome, siege
from hostile.victim import proc_is_here
from runtime.cascades import write_tiny

pytestmark = pytest.mark.skipif(not proc_is_here(), reason="memory and descriptors are read from /proc")

ATTACKS = 800
MORE_MIB = 150
MORE_DESCRIPTORS = 100


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    bundle = write_tiny(tmp_path_factory.mktemp("hostile") / "tiny")
    return siege(bundle, ATTACKS, seed=5, attackers=4, good=1, every=200)


def test_mutated_requests_bring_statuses_of_the_protocol_and_nothing_of_anybody_else(outcome: Outcome) -> None:
    assert outcome.findings == []
    assert outcome.answers.keys() == WEIGHTS.keys()
    assert sum(sum(statuses.values()) for statuses in outcome.answers.values()) == ATTACKS
    statuses = outcome.answers["structured"].keys() | outcome.answers["flips"].keys()
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DATA_LOSS"} <= statuses


def test_meanwhile_good_clients_get_the_engine_s_answers(outcome: Outcome) -> None:
    assert outcome.good["OK"] > 20
    assert outcome.good.keys() <= {"OK"} | OVERLOADED
    assert outcome.checks >= 1 + ATTACKS // 200


def test_memory_and_descriptors_are_bounded(outcome: Outcome) -> None:
    start, most = outcome.resources["start"], outcome.resources["most"]
    assert most.rss_kib - start.rss_kib < MORE_MIB << 10
    assert most.descriptors - start.descriptors < MORE_DESCRIPTORS


def test_the_log_has_documents_only_and_no_failure(outcome: Outcome) -> None:
    assert outcome.log == []
    assert outcome.failures == []


def test_it_ends_in_order_while_half_open_connections_are_there(outcome: Outcome) -> None:
    assert outcome.exit_code == 0
