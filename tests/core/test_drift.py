"""Drift: silent where nothing has changed, loud where something has, and clear about what."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.drift import DriftMonitor, drift_reference
from edgeexit.drift.reference import binned
from edgeexit.errors import DataError, UnreachableError, UsageError
from edgeexit.policies import MaxProbability, Policy
from edgeexit.replay import replay
from edgeexit.thresholds import MaxDrop
from edgeexit.tuning import tune

NAMES = ("first", "second", "third")
COSTS = np.array([1.0, 2.0, 3.0])
CLASSES = 6
POLICY = MaxProbability((1.0,) * 3, (0.8, 0.8, math.inf))

Logits = list[NDArray[np.float32]]


def draw(
    random: np.random.Generator, n: int, *, weaker: float = 0.0, noise: float = 0.7
) -> tuple[Logits, NDArray[np.int64]]:
    """Logits of three exits, each better than the last; `weaker` takes from all of them."""
    labels = random.integers(0, CLASSES, n)
    common = random.normal(size=(n, CLASSES))
    truth = np.eye(CLASSES)[labels]
    logits = [
        (common + noise * random.normal(size=(n, CLASSES)) + (strength - weaker) * truth).astype(np.float32)
        for strength in (2.0, 3.0, 5.0)
    ]
    return logits, labels


def watched(policy: Policy, monitor: DriftMonitor, logits: Logits, audit: float = 0.2) -> DriftMonitor:
    answers = replay(policy, logits)
    monitor.add(answers.exit, answers.score)
    part = max(1, round(audit * len(answers.label)))
    monitor.audit(answers.label[:part] == logits[-1].argmax(axis=1)[:part])
    return monitor


def monitor_of(policy: Policy, logits: Logits, level: float = 0.01) -> DriftMonitor:
    return DriftMonitor(drift_reference(policy, logits), NAMES, level=level)


@pytest.mark.parametrize(("calibration", "today"), [(300, 200), (800, 3000)])
def test_samples_like_those_of_the_calibration_split_rarely_raise_an_alarm(calibration: int, today: int) -> None:
    random, alarms, trials = np.random.default_rng(0), 0, 100
    for _ in range(trials):
        monitor = watched(POLICY, monitor_of(POLICY, draw(random, calibration)[0]), draw(random, today)[0])
        alarms += monitor.report().verdict != "steady"
    assert alarms <= 0.05 * trials


def test_thresholds_fitted_on_the_calibration_split_itself_raise_no_more_alarms() -> None:
    random, alarms, trials = np.random.default_rng(1), 0, 40
    for _ in range(trials):
        logits, labels = draw(random, 400)
        try:
            policy = tune("max-probability", logits, labels, COSTS, MaxDrop(0.02), method="joint").policy
        except UnreachableError:
            trials -= 1
            continue
        alarms += watched(policy, monitor_of(policy, logits), draw(random, 2000)[0]).report().verdict == "drifting"
    assert trials > 30
    assert alarms <= 0.05 * trials


@pytest.mark.parametrize(("change", "word"), [({"weaker": 0.5}, "shares"), ({"noise": 1.2}, "scores|shares|agrees")])
def test_a_change_of_the_data_is_found_and_named(change: dict[str, float], word: str) -> None:
    random = np.random.default_rng(2)
    found = [
        watched(POLICY, monitor_of(POLICY, draw(random, 1000)[0]), draw(random, 1000, **change)[0]).report()
        for _ in range(20)
    ]
    assert sum(report.verdict == "drifting" for report in found) >= 19
    assert any(word in " ".join(report.reasons) for word in word.split("|") for report in found)


def test_scores_that_change_where_shares_do_not_are_found() -> None:
    random = np.random.default_rng(3)
    monitor = monitor_of(POLICY, draw(random, 2000)[0])
    answers = replay(POLICY, draw(random, 2000)[0])
    monitor.add(answers.exit, np.where(answers.exit == 0, (1 + answers.score) / 2, answers.score))
    report = monitor.report()
    assert report.verdict == "drifting"
    assert len(report.reasons) == 1
    assert "the scores at first have changed" in report.reasons[0]
    assert report.shares_p_value is not None
    assert report.shares_p_value > report.test_level
    stability = [entry.stability or 0.0 for entry in report.exits]
    assert stability[0] > 0.25 > max(stability[1:])


def test_less_agreement_with_the_whole_model_is_found_where_nothing_else_changes() -> None:
    random = np.random.default_rng(4)
    logits = draw(random, 2000)[0]
    monitor = monitor_of(POLICY, logits)
    answers = replay(POLICY, logits)
    monitor.add(answers.exit, answers.score)
    monitor.audit(np.arange(300) % 3 > 0)
    report = monitor.report()
    assert report.verdict == "drifting"
    assert "agrees less with the whole model" in report.reasons[0]
    assert report.audit.agreement == pytest.approx(2 / 3)
    assert report.audit.low < 2 / 3 < report.audit.high < report.audit.expected_agreement


def test_the_calibration_split_itself_is_steady_and_exactly_as_expected() -> None:
    logits = draw(np.random.default_rng(5), 500)[0]
    report = watched(POLICY, monitor_of(POLICY, logits), logits, audit=1.0).report()
    assert report.verdict == "steady"
    assert [entry.share for entry in report.exits] == [entry.expected_share for entry in report.exits]
    assert report.audit.agreement == report.audit.expected_agreement
    assert report.shares_p_value == pytest.approx(1.0)


def test_all_looks_together_keep_the_level() -> None:
    random = np.random.default_rng(6)
    logits = draw(random, 500)[0]
    monitor = monitor_of(POLICY, logits, level=0.05)
    spent = []
    for _ in range(50):
        report = watched(POLICY, monitor, draw(random, 100)[0]).report()
        tests = [report.shares_p_value, report.audit.p_value, *(entry.p_value for entry in report.exits)]
        spent.append(report.test_level * sum(p is not None for p in tests))
        monitor.restart()
    assert sum(spent) <= 0.05
    assert [report.look, report.samples] == [50, 100]


def test_looking_often_at_samples_that_have_not_changed_raises_no_more_alarms() -> None:
    random, alarms = np.random.default_rng(7), 0
    for _ in range(40):
        monitor = monitor_of(POLICY, draw(random, 500)[0], level=0.05)
        looks = [watched(POLICY, monitor, draw(random, 100)[0]).report().verdict for _ in range(15)]
        alarms += "drifting" in looks
    assert alarms <= 4


def test_samples_that_come_one_by_one_count_the_same() -> None:
    random = np.random.default_rng(8)
    logits, today = draw(random, 300)[0], draw(random, 60)[0]
    answers = replay(POLICY, today)
    together, single = monitor_of(POLICY, logits), monitor_of(POLICY, logits)
    together.add(answers.exit, answers.score)
    for k, score in zip(answers.exit, answers.score, strict=True):
        single.add(int(k), float(score))
    assert single.report() == together.report()


def test_few_samples_are_unclear() -> None:
    random = np.random.default_rng(9)
    monitor = monitor_of(POLICY, draw(random, 300)[0])
    assert monitor.report().verdict == "unclear"
    assert watched(POLICY, monitor, draw(random, 20)[0]).report().verdict == "unclear"
    assert monitor.report().exits[0].share is not None


def test_the_bins_of_the_reference_hold_every_sample_once() -> None:
    logits = draw(np.random.default_rng(10), 700)[0]
    reference = drift_reference(POLICY, logits)
    assert sum(map(sum, reference.counts)) == 700
    for edges, counts in zip(reference.edges, reference.counts, strict=True):
        assert list(edges) == sorted(set(edges))
        assert len(counts) == len(edges) + 1
        assert len(counts) == 1 or min(counts) >= 20


def test_equal_scores_are_in_one_bin() -> None:
    logits = [np.tile(np.array([3, 0, 0], np.float32), (200, 1))] * 2
    reference = drift_reference(MaxProbability((1.0, 1.0), (0.5, math.inf)), logits)
    assert reference.edges == ((), ())
    assert reference.counts == ((200,), (0,))


def test_a_score_at_an_edge_belongs_to_the_bin_above() -> None:
    assert binned(np.array([0.1, 0.5, 0.6, 0.9]), [0.5, 0.9]).tolist() == [1, 2, 1]


@pytest.mark.parametrize(("exits", "scores"), [([0, 1], [0.5]), ([0], [math.nan]), ([3], [0.5]), ([-1], [0.5])])
def test_what_is_no_answer_is_refused(exits: list[int], scores: list[float]) -> None:
    with pytest.raises(DataError):
        monitor_of(POLICY, draw(np.random.default_rng(11), 100)[0]).add(exits, scores)


def test_without_a_reference_the_user_is_told_to_tune() -> None:
    with pytest.raises(UsageError, match="edgeexit tune"):
        DriftMonitor(None, NAMES)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_a_level_that_is_no_chance_is_refused(level: float) -> None:
    with pytest.raises(UsageError, match="false alarm"):
        monitor_of(POLICY, draw(np.random.default_rng(12), 100)[0], level=level)
