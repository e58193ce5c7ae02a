"""The device's decision is the replay's, under every registered policy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.cached import CachedLogits
from edgeexit.policies import POLICIES, Policy, Setting
from edgeexit.replay import judge, replay
from edgeexit.tuning import fit_as_stored, with_early
from edgeexit_runtime import Cascade
from runtime.cascades import F32, forward, write_tiny

N = 320
X = np.random.default_rng(41).standard_normal((N, 4)).astype(F32)
Y = np.where(np.arange(N) % 4 == 0, np.arange(N) % 3, forward(X)[-1].argmax(axis=1))
COSTS = np.array([0.4, 0.7, 1.1])
TOLERANCE = 1e-4
"""How close to its threshold a score is that batches of other sizes, summed in another order, may carry across."""


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    return Cascade.open(write_tiny(tmp_path_factory.mktemp("device") / "tiny"))


@pytest.fixture(scope="module")
def cached(cascade: Cascade) -> CachedLogits:
    return CachedLogits(tuple(cascade.logits(X)), Y)


def fitted(name: str, cached: CachedLogits) -> Policy:
    """A policy with which about a third of all samples could leave at each exit, no score being at a threshold."""
    policy = fit_as_stored(name, cached.logits, cached.labels, Setting(COSTS, 0.7, 0))
    thresholds = [between(scores) for scores in judge(policy, cached.logits).score[:-1]]
    return with_early(policy, np.array(thresholds))


def between(scores: NDArray[np.float32]) -> float:
    """The middle of two neighbouring scores, with about a third of all above."""
    values = np.unique(scores[np.isfinite(scores)]).astype(np.float64)
    upper = max(1, int(np.searchsorted(values, np.quantile(scores, 0.66, method="nearest"))))
    return float((values[upper - 1] + values[min(upper, len(values) - 1)]) / 2)


def decided(cascade: Cascade, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exit and label of every sample, (N,) each."""
    answers = [cascade.run(X[start : start + batch]) for start in range(0, N, batch)]
    return np.concatenate([a.exit for a in answers]), np.concatenate([a.label for a in answers])


def at_a_threshold(policy: Policy, cached: CachedLogits) -> NDArray[np.bool_]:
    """(N,) whether some exit's score is within rounding of its threshold."""
    thresholds = np.asarray(policy.thresholds[:-1])[:, None]
    scores = judge(policy, cached.logits).score[:-1]
    return (np.abs(scores - thresholds) <= TOLERANCE * np.maximum(1.0, np.abs(thresholds))).any(axis=0)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("name", POLICIES)
def test_every_sample_leaves_where_the_replay_says_with_its_label(
    cascade: Cascade, cached: CachedLogits, name: str, batch: int
) -> None:
    policy = fitted(name, cached)
    expected = replay(policy, cached.logits)
    exits, labels = decided(cascade.with_policy(policy), batch)
    differs = (exits != expected.exit) | (labels != expected.label)
    assert not (differs & ~at_a_threshold(policy, cached)).any()
    assert differs.sum() <= 0.02 * N
    assert len(set(exits)) > 1
