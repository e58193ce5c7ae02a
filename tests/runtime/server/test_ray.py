"""A tier on Ray Serve gives the answers of one cascade, whatever becomes of its replicas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc
from tritonclient.grpc import InferenceServerClient, InferenceServerException

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.server.ray import (
    INGRESS,
    RayTier,
    add_tier_to_server,
    application,
    build,
)
from faults.trial import Outcome, expected_answers, trial
from runtime.cascades import EXITS, F32, write_tiny
from runtime.server.ray_proxy import SAFETY_S, infer_request, refused, tail_of
from runtime.server.ray_serving import RayServe, ray_serve

N = 200


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ray") / "tiny")


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return np.random.default_rng(4).standard_normal((N, 4)).astype(F32)


@pytest.fixture(scope="module")
def expected(bundle: Path, samples: Any) -> Any:
    found = expected_answers(bundle, samples, 1)
    assert set(found[0].exit.tolist()) == set(range(EXITS))
    return found


def test_values_of_a_command_line_are_taken_as_texts() -> None:
    found = RayTier.parse({"bundle": "m.eexit", "from": "2", "delay_ms": "0.5", "max_replicas": "8"})
    assert found == RayTier(bundle="m.eexit", first=2, delay_ms=0.5, max_replicas=8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"from": 2},
        {"bundle": "m", "form": 2},
        {"bundle": "m", "from": "two"},
        {"bundle": "m", "replicas": 0},
        {"bundle": "m", "replicas": 3, "max_replicas": 2},
        {"bundle": "m", "max_batch": 0},
        {"bundle": "m", "delay_ms": "nan"},
        {"bundle": "m", "target_ongoing": 0},
        {"bundle": "m", "name": "a,b"},
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RayTier.parse(wrong)


def test_replicas_are_of_a_fixed_number_or_between_two() -> None:
    fixed, scaled = RayTier(bundle="m", replicas=3), RayTier(bundle="m", replicas=2, max_replicas=9, target_ongoing=5)
    assert fixed.deployment()["num_replicas"] == 3
    assert "autoscaling_config" not in fixed.deployment()
    assert scaled.deployment()["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 9,
        "target_ongoing_requests": 5,
    }
    assert "num_replicas" not in scaled.deployment()


def test_a_replica_gets_the_processors_that_its_operators_use() -> None:
    assert RayTier(bundle="m", threads=4).deployment()["ray_actor_options"] == {"num_cpus": 4.0, "num_gpus": 0.0}
    assert RayTier(bundle="m", threads=4, cpus=0.5).deployment()["ray_actor_options"]["num_cpus"] == 0.5


def test_ray_gives_a_replica_more_than_it_accepts() -> None:
    tier = RayTier(bundle="m", max_queue=10, max_batch=4)
    assert tier.deployment()["max_ongoing_requests"] > 10 + 4


def test_without_ray_the_error_names_the_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPartError, match=r"edgeexit-runtime\[ray\]"):
        application(bundle, first=1)
    with pytest.raises(MissingPartError):
        build({"bundle": str(bundle), "from": "1"})


def test_the_ingress_is_found_by_its_name() -> None:
    module, _, name = INGRESS.rpartition(".")
    assert getattr(sys.modules[module], name) is add_tier_to_server


@pytest.fixture(scope="module")
def ray(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServe]:
    """A real Ray Serve with two replicas, which take half a processor each."""
    log = tmp_path_factory.mktemp("ray-log") / "log"
    with ray_serve(bundle, log, **{"from": 1, "replicas": 2, "cpus": 0.5}) as serving:
        assert len(serving.replicas) == 2
        yield serving


@pytest.mark.slow
def test_behind_ray_serve_labels_and_exits_are_those_of_one_cascade(
    ray: RayServe, bundle: Path, samples: Any, expected: Any
) -> None:
    batches = [samples[start : start + 8] for start in range(0, N, 8)]
    outcome = trial(bundle, f"grpc://{ray.address}", batches, expected, upto=1, deadline_ms=1e3 * SAFETY_S)
    assert (outcome.lost, outcome.twice, outcome.wrong, outcome.reasons.total()) == (0, 0, 0, 0)
    assert outcome.tiers["server"] > 0


@pytest.mark.slow
def test_ray_serve_answers_tritons_own_client_and_refuses_as_we_do(ray: RayServe, bundle: Path) -> None:
    with InferenceServerClient(ray.address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(tail_of(bundle, 1))
        assert not client.is_model_ready(tail_of(bundle, 0))
        with pytest.raises(InferenceServerException, match="there is no model"):
            client.get_model_metadata(tail_of(bundle, 0))


@pytest.mark.slow
def test_around_ray_serves_own_way_is_ours(ray: RayServe, bundle: Path, samples: Any) -> None:
    """Its answers carry the name of a request, which ours keeps to itself."""
    error = refused(ray.address, infer_request(bundle, samples[:1], tail_of(bundle, 0)).SerializeToString())
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "there is no model" in error.details()
    assert not error.trailing_metadata()


@pytest.mark.slow
def test_a_replica_that_dies_loses_nobody(ray: RayServe, bundle: Path, samples: Any, expected: Any) -> None:
    outcome = Outcome()

    def batches() -> Iterator[Any]:
        for start in range(0, N, 2):
            if start == N // 4:
                ray.kill_a_replica()
            yield samples[start : start + 2]

    more = {"deadline_ms": 5e3, "outcome": outcome}
    trial(bundle, f"grpc://{ray.address}", batches(), expected, upto=1, **more)
    assert (outcome.lost, outcome.twice, outcome.wrong) == (0, 0, 0)
    assert outcome.tiers.total() + outcome.reasons.total() == N
    assert outcome.tiers["server"] > outcome.reasons.total()
