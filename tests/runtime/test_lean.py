"""Lean cascades: exits that nobody can take cost nothing, and change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.bundle.rewrite import rewrite
from edgeexit.bundle.writer import write_bundle
from edgeexit.errors import UsageError
from edgeexit.policies import MaxProbability, PooledProbability
from edgeexit_runtime import Cascade
from edgeexit_runtime.lean import idle_exits
from runtime.cascades import F32, tiny_parts, tiny_policy, write_tiny

MANIFEST, _ = tiny_parts()
NEVER = float("inf")
X = np.random.default_rng(4).standard_normal((60, 4)).astype(F32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The tiny bundle, its first exit disabled."""
    opened = Bundle.open(write_tiny(tmp_path / "tiny"))
    write_bundle(tmp_path / "half", *rewrite(opened, policy=tiny_policy().with_thresholds((NEVER, 0.6, NEVER))))
    return tmp_path / "half"


def test_a_disabled_exit_has_no_head(bundle: Path) -> None:
    lean = Cascade.open(bundle, lean=True)
    assert [segment.has_logits for segment in lean._segments] == [False, True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("n", [1, 2, 60])
def test_a_lean_cascade_answers_as_a_full_one(bundle: Path, n: int) -> None:
    lean, full = Cascade.open(bundle, lean=True).run(X[:n]), Cascade.open(bundle).run(X[:n])
    np.testing.assert_array_equal(lean.exit, full.exit)
    np.testing.assert_array_equal(lean.label, full.label)
    np.testing.assert_allclose(lean.score, full.score, rtol=1e-5)


def test_a_lean_stream_answers_as_a_full_one(bundle: Path) -> None:
    def answers(lean: bool) -> list[tuple[int, int, int]]:
        stream = Cascade.open(bundle, lean=lean).stream([X[:30], X[30:]], wait_ms=1e6)
        return sorted((answer.index, answer.exit, answer.label) for answer in stream)

    assert answers(lean=True) == answers(lean=False)


def test_the_last_exit_of_a_tier_keeps_its_head(bundle: Path) -> None:
    assert Cascade.open(bundle, lean=True, upto=1).run(X[:4]).degraded.all()


def test_exits_whose_logits_a_policy_remembers_are_not_idle() -> None:
    pooled = PooledProbability(((1.0, 0.0), (1.0, 0.5), (1.0, 0.5)), (NEVER, NEVER, NEVER))
    alone = MaxProbability((1.0,) * 3, (NEVER, NEVER, NEVER))
    assert (idle_exits(pooled, MANIFEST, 3), idle_exits(alone, MANIFEST, 3)) == (frozenset(), frozenset({0, 1}))


def test_a_policy_that_needs_a_head_that_was_left_out_is_refused(bundle: Path) -> None:
    lean = Cascade.open(bundle, lean=True)
    with pytest.raises(UsageError, match="without the heads"):
        lean.with_policy(tiny_policy())
    with pytest.raises(UsageError, match="no head"):
        lean.logits(X)


def test_thresholds_of_exits_that_are_there_can_be_replaced(bundle: Path) -> None:
    lean = Cascade.open(bundle, lean=True)
    never = lean.with_policy(tiny_policy().with_thresholds((NEVER, NEVER, NEVER)))
    assert set(never.run(X).exit) == {2}
