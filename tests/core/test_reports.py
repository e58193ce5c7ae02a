"""What a report says: figures, who is right, confusions, the trade-off and the choice of pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.evidence import counted_evidence, random_evidence
from edgeexit.comparison import Row
from edgeexit.policies import MaxProbability
from edgeexit.replay import replay
from edgeexit.reports import words
from edgeexit.reports.agreement import combinations, hit_curve, overthinking
from edgeexit.reports.confusion import confusion
from edgeexit.reports.gallery import choose_pictures
from edgeexit.reports.headline import exit_figures, headline, reading
from edgeexit.reports.thumbnails import data_address
from edgeexit.reports.tradeoff import tradeoff

COUNTED = counted_evidence()


def row(policy: str, budget: float, accuracy: float | None, cost: float | None = None) -> Row:
    return Row(policy, "joint", budget, accuracy, 0.01, cost, 0.01, 1, accuracy is not None, "")


def test_the_evidence_is_what_a_replay_answers() -> None:
    _, evidence, logits = random_evidence(exits=4, thresholds=(0.9, 0.8, 0.95))
    answers = replay(MaxProbability((1.0,) * 4, (0.9, 0.8, 0.95, float("inf"))), logits)
    np.testing.assert_array_equal(evidence.taken, answers.exit)
    np.testing.assert_array_equal(evidence.label, answers.label)


def test_the_headline_is_counted_right() -> None:
    figures = headline(COUNTED)
    assert (figures.samples, figures.accuracy, figures.full_accuracy) == (6, 4 / 6, 4 / 6)
    assert figures.accuracy_drop == 0
    assert figures.mean_cost == pytest.approx((3 * 0.2 + 0.5 + 2 * 1.1) / 6)
    assert figures.worst_cost == 1.1


def test_the_error_of_the_drop_is_that_of_paired_samples() -> None:
    # One sample lost, one gained, four equal: differences 1, −1 and 0 over six samples.
    assert headline(COUNTED).drop_error == pytest.approx(np.sqrt((2 / 6) / 6))


def test_every_exit_has_its_count_share_and_accuracy() -> None:
    a, b, whole = exit_figures(COUNTED)
    assert (a.count, a.share, a.accuracy, a.alone_accuracy) == (3, 0.5, pytest.approx(2 / 3), pytest.approx(4 / 6))
    assert (b.count, b.accuracy, b.threshold) == (1, 1.0, 0.9)
    assert (whole.count, whole.accuracy, whole.threshold) == (2, 0.5, None)


def test_an_exit_that_nobody_took_has_no_accuracy() -> None:
    _, evidence, _ = random_evidence(thresholds=(0.8, float("inf")))
    assert (exit_figures(evidence)[1].count, exit_figures(evidence)[1].accuracy) == (0, None)


@pytest.mark.parametrize(("drop", "word"), [(0.02, "2.0 points below"), (-0.02, "2.0 points above")])
def test_the_reading_says_on_which_side_of_the_whole_model_the_cascade_is(drop: float, word: str) -> None:
    figures = replace(headline(COUNTED), accuracy_drop=drop)
    assert f"{word} the whole model" in reading(figures, exit_figures(COUNTED))


@pytest.mark.parametrize(("cost", "word"), [(0.55, "55.0\u202f% of its"), (1.25, "25.0\u202f% more")])
def test_the_reading_says_whether_work_is_saved_or_added(cost: float, word: str) -> None:
    figures = replace(headline(COUNTED), mean_cost=cost)
    assert f"{word} multiply-accumulates" in reading(figures, exit_figures(COUNTED))


def test_a_cascade_as_good_as_the_model_is_said_to_be_so() -> None:
    assert "as often as the whole model" in reading(headline(COUNTED), exit_figures(COUNTED))


def test_the_combinations_are_counted_right() -> None:
    left = combinations(COUNTED, 0, COUNTED.left_at(0))
    assert (left.both_right, left.whole_only, left.exit_only, left.same_mistake) == (1, 1, 1, 0)
    everybody = combinations(COUNTED, 0)
    assert (everybody.both_right, everybody.whole_only, everybody.exit_only) == (2, 2, 2)
    assert combinations(COUNTED, 2, COUNTED.left_at(2)).same_mistake == 1


@given(seed=st.integers(0, 1000), exits=st.integers(2, 6))
def test_every_sample_is_in_one_combination_and_the_gains_add_up_to_the_drop(seed: int, exits: int) -> None:
    _, evidence, _ = random_evidence(seed=seed, exits=exits, classes="abcd", samples=60)
    rows = [combinations(evidence, k, evidence.left_at(k)) for k in range(exits)]
    assert [row.samples for row in rows] == np.bincount(evidence.taken, minlength=exits).tolist()
    assert sum(row.gain for row in rows) / 60 == pytest.approx(-headline(evidence).accuracy_drop)


def test_different_mistakes_are_told_from_the_same() -> None:
    _, evidence, _ = random_evidence(classes="abcd", samples=2000)
    found = combinations(evidence, 0)
    exit_, whole, truth = evidence.judgement.label[0], evidence.whole, evidence.truth
    assert found.different_mistakes == ((exit_ != whole) & (exit_ != truth) & (whole != truth)).sum() > 0
    assert found.same_mistake == ((exit_ == whole) & (exit_ != truth)).sum() > 0


@given(seed=st.integers(0, 1000), index=st.integers(0, 100))
def test_the_hit_curve_is_what_counting_at_a_threshold_gives(seed: int, index: int) -> None:
    _, evidence, _ = random_evidence(seed=seed, samples=50)
    curve = hit_curve(evidence, 1)
    hit = evidence.judgement.probability[1] >= curve.confidence[index]
    assert curve.hit_rate[index] == hit.mean()
    if hit.any():
        assert curve.accuracy[index] == pytest.approx(evidence.correct[1][hit].mean())
        assert curve.agreement[index] == pytest.approx((evidence.judgement.label[1] == evidence.whole)[hit].mean())
    else:
        assert np.isnan(curve.accuracy[index])


def test_overthinking_is_counted_right() -> None:
    found = overthinking(COUNTED)
    assert (found.share, found.kept_share) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert found.by_exit == pytest.approx((2 / 6, 0))
    assert (found.best_accuracy, found.best_cost) == (1, pytest.approx((4 * 0.2 + 2 * 0.5) / 6))


def test_the_confusion_has_the_truth_by_row() -> None:
    found = confusion(COUNTED, 0, most_classes=30)
    assert found.matrix is not None
    assert found.matrix.tolist() == [[2, 1], [1, 2]]
    assert (found.samples, found.right) == (6, 4)


def test_the_pairs_are_the_most_frequent_mistakes() -> None:
    _, evidence, _ = random_evidence(classes="abcde", samples=500)
    found = confusion(evidence, 0, most_classes=30)
    assert found.matrix is not None
    wrong = found.matrix - np.diag(np.diag(found.matrix))
    assert [pair.count for pair in found.pairs] == sorted(wrong.ravel().tolist(), reverse=True)[: len(found.pairs)]
    first = found.pairs[0]
    assert wrong["abcde".index(first.truth), "abcde".index(first.answer)] == first.count
    assert first.of == (evidence.truth == "abcde".index(first.truth)).sum()


def test_for_many_classes_there_are_pairs_and_no_matrix() -> None:
    _, evidence, _ = random_evidence(classes=[f"class{i}" for i in range(31)], samples=400)
    found = confusion(evidence, 0, most_classes=30)
    assert found.matrix is None
    assert found.pairs


def test_an_exit_that_nobody_took_has_an_empty_confusion() -> None:
    _, evidence, _ = random_evidence(thresholds=(0.8, float("inf")))
    found = confusion(evidence, 1, evidence.left_at(1), most_classes=30)
    assert (found.samples, found.pairs) == (0, ())


ROWS = [
    row("a", 0.4, 0.80, 0.39),
    row("a", 0.6, 0.85, 0.58),
    row("b", 0.4, 0.70, 0.40),
    row("b", 0.6, 0.90, 0.60),
    row("c", 0.4, None),
    row("c", 0.6, 0.90, 0.59),
    row("d", 0.4, None),
    row("d", 0.6, None),
]


def test_a_budget_that_a_policy_cannot_keep_is_not_on_its_curve() -> None:
    found = tradeoff(COUNTED, ROWS, "a")
    assert {curve.name: [p.budget for p in curve.points] for curve in found.curves} == {
        "a": [0.4, 0.6],
        "b": [0.4, 0.6],
        "c": [0.6],
    }
    assert found.budgets == (0.4, 0.6)


def test_the_best_of_a_budget_is_nothing_behind() -> None:
    found = {curve.name: curve for curve in tradeoff(COUNTED, ROWS, "a").curves}
    assert [p.behind for p in found["a"].points] == [0, pytest.approx(0.05)]
    assert [p.behind for p in found["b"].points] == [pytest.approx(0.1), 0]


def test_policies_are_ranked_by_their_mean_distance_and_not_reaching_a_budget_is_the_worst() -> None:
    # a is 0.025 behind on average; b and c both 0.05, c because it counts as the worst at 0.4.
    assert [curve.name for curve in tradeoff(COUNTED, ROWS, None).curves] == ["a", "b", "c"]


def test_the_bundles_policy_stands_out_however_it_does() -> None:
    rows = [row(name, 0.5, accuracy, 0.5) for name, accuracy in zip("abcdef", np.linspace(0.9, 0.4, 6), strict=True)]
    standing_out = [curve.name for curve in tradeoff(COUNTED, rows, "f").curves if curve.emphasised]
    assert standing_out == ["a", "b", "c", "f"]


def test_nothing_lies_above_the_hull() -> None:
    _, evidence, _ = random_evidence(exits=6)
    found = tradeoff(evidence, ROWS, None)
    costs, accuracies = [p.cost for p in found.hull], [p.accuracy for p in found.hull]
    everything = [p for curve in found.curves for p in curve.points] + [*found.exits, found.bundle, found.whole]
    assert all(p.accuracy <= np.interp(p.cost, costs, accuracies) + 1e-12 for p in everything if p.cost >= costs[0])


def test_each_exit_alone_and_the_bundle_are_where_they_were_measured() -> None:
    found = tradeoff(COUNTED, [], None)
    assert [(p.cost, p.accuracy) for p in found.exits] == [(0.2, 4 / 6), (0.5, 4 / 6), (1.1, 4 / 6)]
    assert (found.bundle.cost, found.bundle.accuracy) == (pytest.approx(0.55), 4 / 6)
    assert found.curves == ()


def test_the_pictures_of_a_class_leave_in_the_order_of_exit_and_score() -> None:
    _, evidence, _ = random_evidence(samples=300, thresholds=(0.7, 0.7))
    for show in choose_pictures(evidence).classes:
        members = np.flatnonzero(evidence.truth == evidence.classes.index(show.name))
        score = evidence.judgement.score[evidence.taken, np.arange(300)]
        ranked = sorted(members.tolist(), key=lambda i: (evidence.taken[i], -score[i], i))
        assert [p.row for p in show.first] == ranked[:4]
        assert [p.row for p in show.last] == ranked[::-1][:4]


def test_of_many_classes_those_of_least_and_greatest_cost_are_shown() -> None:
    _, evidence, _ = random_evidence(classes="abcdefghij", samples=800)
    costs = [evidence.spent[evidence.truth == k].mean() for k in range(10)]
    shown = [evidence.classes.index(show.name) for show in choose_pictures(evidence).classes]
    assert shown == [*np.argsort(costs)[:3], *np.argsort(costs)[-3:]]


def test_no_picture_of_a_class_is_shown_both_first_and_last() -> None:
    _, evidence, _ = random_evidence(samples=10)
    for show in choose_pictures(evidence).classes:
        assert not {p.row for p in show.first} & {p.row for p in show.last}


def test_a_single_sample_is_a_gallery_too() -> None:
    _, evidence, _ = random_evidence(samples=1)
    gallery = choose_pictures(evidence)
    assert gallery.rows == (0,)
    assert [len(show.drawn) for show in gallery.exits] == [1]


def test_pictures_drawn_at_an_exit_left_there_and_are_drawn_alike_every_time() -> None:
    _, evidence, _ = random_evidence(samples=300, thresholds=(0.7, 0.7))
    gallery = choose_pictures(evidence)
    for show in gallery.exits:
        assert {evidence.names[evidence.taken[p.row]] for p in show.drawn} == {show.name}
    assert choose_pictures(evidence).rows == gallery.rows


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_a_small_picture_is_kept_pixel_by_pixel(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kept = np.asarray(decoded(data_address(pixels)))
    np.testing.assert_array_equal(kept.reshape(shape), pixels)


def test_a_large_picture_becomes_small() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    address = data_address(pixels)
    assert decoded(address).size == (43, 64)
    assert len(address) < 6000


def decoded(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("share", "word"),
    [(0.946, "94.6\u202f%"), (0.0, "0.0\u202f%"), (-0.0001, "0.0\u202f%"), (None, "–"), (float("nan"), "–")],
)
def test_a_share_is_written_as_per_cent(share: float | None, word: str) -> None:
    assert words.percent(share) == word


def test_a_negative_number_has_a_minus_sign() -> None:
    assert (words.decimals(-0.5, 1), words.threshold(-1.25)) == ("−0.5", "−1.25")


@given(name=st.text(max_size=40), length=st.integers(4, 20))
def test_a_shortened_name_has_at_most_the_length_and_begins_and_ends_as_the_name(name: str, length: int) -> None:
    found = words.shortened(name, length)
    assert len(found) <= length
    if len(name) <= length:
        assert found == name
    else:
        before, _, after = found.partition("…")
        assert name.startswith(before)
        assert name.endswith(after)
