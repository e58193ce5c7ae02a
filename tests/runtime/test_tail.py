"""A tail goes on where another tier stopped, and comes to what one cascade in one process comes to."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import DataError, UsageError
from edgeexit.payload import STATE
from edgeexit.policies import POLICIES, policy_kind
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends import load_backend
from edgeexit_runtime.tail import Tail
from runtime.cascades import EXITS, F32, forward, write_tiny
from runtime.tier.fakes import SEGMENTS, fake_tail

SAMPLES = 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tail") / "tiny")


@pytest.fixture
def samples() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((SAMPLES, 4)).astype(F32)


def through(tails: list[Tail], x: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    """Labels and exits, each tail taking what the one before it hands on as host arrays."""
    labels, exits = [-1] * len(x), [-1] * len(x)
    arrays, rows = {"x": x}, np.arange(len(x))
    for tail in tails:
        group = tail.begin(arrays)
        for k in range(tail.first, tail.last + 1):
            decision, group = tail.step(k, group)
            for row in np.flatnonzero(decision.leave):
                labels[rows[row]], exits[rows[row]] = int(decision.label[row]), k
            staying = np.flatnonzero(~decision.leave)
            rows = rows[staying]
            if not len(rows):
                return labels, exits
            group = tail.keep(group, staying)
        arrays = tail.arrays(tail.last + 1, group)
    return labels, exits


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2)])
def test_tiers_in_a_row_give_the_labels_and_exits_of_one_cascade(
    bundle: Path, samples: NDArray[np.float32], cuts: tuple[int, ...]
) -> None:
    edges = (0, *cuts, EXITS)
    tails = [Tail.open(bundle, first=first, upto=end) for first, end in pairwise(edges)]
    expected = Cascade.open(bundle).run(samples)
    assert len(set(expected.exit.tolist())) > 1
    assert through(tails, samples) == (expected.label.tolist(), expected.exit.tolist())


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"class-means", "either", "veto"}))
def test_what_a_policy_remembers_travels_with_the_samples(
    bundle: Path, samples: NDArray[np.float32], name: str
) -> None:
    logits = list(forward(np.random.default_rng(9).standard_normal((300, 4)).astype(F32)))
    policy = policy_kind(name).fit(logits, logits[-1].argmax(axis=1))
    policy = policy.with_thresholds((0.6, 0.7, np.inf))
    opened, engine = Bundle.open(bundle), load_backend("onnxruntime")
    whole = Tail.open(opened)
    segments = whole._segments
    tails = [Tail(opened.manifest, policy, engine, segments[k : k + 1], k) for k in range(EXITS)]
    expected = Cascade.open(opened).with_policy(policy).run(samples)
    assert through(tails, samples) == (expected.label.tolist(), expected.exit.tolist())


def test_it_says_what_it_takes_the_state_last_and_none_at_the_model_s_inputs(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    logits = list(forward(np.zeros((4, 4), F32)))
    policy = policy_kind("pooled-probability").fit(logits, np.zeros(4, np.int64))
    tail = Tail(opened.manifest, policy, load_backend("onnxruntime"), Tail.open(opened)._segments)
    assert [spec.name for spec in tail.takes(0)] == ["x"]
    assert [spec.name for spec in tail.takes(1)] == ["x", "h0", f"{STATE}0"]
    assert [spec.name for spec in tail.takes(2)] == ["h1", f"{STATE}0"]


def test_groups_that_are_joined_answer_as_they_would_alone(bundle: Path, samples: NDArray[np.float32]) -> None:
    tail = Tail.open(bundle)
    parts = [tail.begin({"x": part}) for part in np.split(samples, [1, 7])]
    together, _ = tail.step(0, tail.join(parts))
    alone = [tail.step(0, part)[0] for part in parts]
    assert together.label.tolist() == np.concatenate([decision.label for decision in alone]).tolist()
    np.testing.assert_allclose(together.score, np.concatenate([d.score for d in alone]), rtol=1e-5)


def test_arrays_that_are_not_what_a_segment_takes_are_refused(bundle: Path) -> None:
    tail = Tail.open(bundle, first=1)
    with pytest.raises(DataError, match="names"):
        tail.begin({"h0": np.zeros((1, 8), F32)})
    with pytest.raises(DataError, match="shape"):
        tail.begin({"h0": np.zeros((1, 9), F32), "x": np.zeros((1, 4), F32)})


@pytest.mark.parametrize(("first", "upto"), [(3, None), (-1, None), (2, 2), (0, 4)])
def test_segments_that_the_bundle_does_not_have_are_refused(bundle: Path, first: int, upto: int | None) -> None:
    with pytest.raises(UsageError):
        Tail.open(bundle, first=first, upto=upto)


def test_warming_up_runs_every_segment_once() -> None:
    tail = fake_tail(1, SEGMENTS)
    tail.warm_up()
    assert [segment.rows for segment in tail._segments] == [[1]] * (SEGMENTS - 1)  # type: ignore[attr-defined]
