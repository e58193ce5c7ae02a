"""The charts of a report: well-formed, escaped, and with marks where the figures are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.evidence import counted_evidence, random_evidence
from edgeexit.calibration import reliability
from edgeexit.comparison import Row
from edgeexit.reports.agreement import hit_curve
from edgeexit.reports.charts.axes import Axis, ticks
from edgeexit.reports.charts.curves import NARROW, WIDE, behind_chart, cost_chart
from edgeexit.reports.charts.drawing import marks
from edgeexit.reports.charts.heatmap import heatmap
from edgeexit.reports.charts.hits import hits_chart
from edgeexit.reports.charts.reliability import reliability_chart
from edgeexit.reports.charts.scatter import score_scatter
from edgeexit.reports.tradeoff import tradeoff

HOSTILE = '<script>alert("1")</script>&\'"'
COUNTED = counted_evidence()


def texts(svg: str, css: str = "") -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter("text") if css in e.get("class", "")]


def paths(svg: str, css: str) -> list[str]:
    return [e.get("d", "") for e in ElementTree.fromstring(svg).iter("path") if css in e.get("class", "").split()]


def dots(path: str) -> int:
    return path.count("h0")


def many_rows(policies: int, budgets: int) -> list[Row]:
    return [
        Row(f"policy-{p:02}+joint", "joint", 0.3 + 0.1 * b, 0.9 - 0.01 * p + 0.01 * b, 0.0, 0.3, 0.0, 1, True, "")
        for p in range(policies)
        for b in range(budgets)
    ]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6), most=st.integers(2, 10))
def test_ticks_are_few_rise_evenly_and_lie_within(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    slack = 1e-6 * (abs(low) + span)
    assert len(found) <= most + 1
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert found == sorted(found)


def test_an_axis_puts_its_ends_at_its_ends() -> None:
    axis = Axis(0.5, 1.0, 300, 20)
    assert (axis(0.5), axis(1.0), axis(0.75)) == (300, 20, 160)
    assert (axis.kept(2.0), axis.kept(0.1)) == (1.0, 0.5)


def test_an_axis_of_one_value_puts_it_in_the_middle() -> None:
    assert Axis(3, 3, 0, 100)(3) == 50


def test_marks_are_as_many_as_the_points() -> None:
    points = [(1, 2), (3.25, 4), (5, 6)]
    assert dots(marks(points, "dot")) == 3
    assert marks(points, "cross").count("M") == 3
    assert marks([], "dot") == ""


def test_a_scatter_tells_right_wrong_and_gone_apart() -> None:
    svg = score_scatter(COUNTED, 1, np.arange(6))
    # Three left before; of the other three exit b has two right and one wrong.
    assert [dots(path) for path in paths(svg, "gone")] == [3]
    assert [dots(path) for path in paths(svg, "right")] == [2]
    assert [path.count("M") for path in paths(svg, "wrong")] == [1]


def test_a_scatter_draws_the_threshold_and_says_it() -> None:
    assert texts(score_scatter(COUNTED, 0, np.arange(6)), "threshold-word") == ["leave at 0.9 or more"]
    assert paths(score_scatter(COUNTED, 2, np.arange(6)), "threshold") == []


@pytest.mark.parametrize("classes", [2, 12, 13, 1000])
def test_a_scatter_names_few_classes_and_numbers_many(classes: int) -> None:
    _, evidence, _ = random_evidence(classes=[f"class {i}" for i in range(classes)], samples=50)
    named = [word for word in texts(score_scatter(evidence, 0, np.arange(50)), "tick") if word.startswith("class")]
    assert len(named) == (classes if classes <= 12 else 0)


def test_a_scatter_of_equal_scores_is_drawn() -> None:
    _, evidence, _ = random_evidence(samples=1, thresholds=(float("inf"), float("inf")))
    assert "NaN" not in score_scatter(evidence, 0, np.arange(1))


def test_a_reliability_chart_has_a_point_for_every_bin_with_samples() -> None:
    probability = np.array([0.95] * 20 + [0.5] * 3, np.float32)
    svg = reliability_chart("a", reliability(probability, np.arange(23) % 2 == 0))
    circles = [e.get("class") for e in ElementTree.fromstring(svg).iter("circle")]
    assert sorted(filter(None, circles)) == ["point few", "point one"]


def test_a_hit_chart_marks_the_threshold_only_where_it_is_a_confidence() -> None:
    curve = hit_curve(COUNTED, 0)
    assert texts(hits_chart(curve, 0.9), "threshold-word") == ["here 90.0\u202f%"]
    assert texts(hits_chart(curve, None), "threshold-word") == []


def test_a_heat_map_writes_the_counts_of_few_classes() -> None:
    matrix = np.array([[7, 0], [3, 5]])
    assert texts(heatmap(matrix, ("x", "y"), "a"), "number") == ["7", "5", "3"]
    big = np.eye(11, dtype=np.int64)
    assert texts(heatmap(big, [f"c{i}" for i in range(11)], "a"), "number") == []


def test_an_empty_heat_map_is_drawn_without_fields() -> None:
    svg = heatmap(np.zeros((3, 3), np.int64), "abc", "a")
    assert paths(svg, "good") == paths(svg, "bad") == []


def test_the_largest_count_has_the_strongest_shade() -> None:
    svg = heatmap(np.array([[50, 9], [1, 60]]), ("x", "y"), "a")
    (strongest,) = [e.get("d", "") for e in ElementTree.fromstring(svg).iter("path") if e.get("class") == "bad shade6"]
    assert strongest.count("M") == 1


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_the_cost_chart_draws_every_policy_every_exit_the_hull_and_the_bundle(size: object) -> None:
    svg = cost_chart(tradeoff(COUNTED, many_rows(9, 3), None), size)  # type: ignore[arg-type]
    assert len(paths(svg, "curve")) == 9
    assert len(paths(svg, "hull")) == len(paths(svg, "bundle")) == 1
    assert len([e for e in ElementTree.fromstring(svg).iter("circle") if "exit" in e.get("class", "")]) == 3


def test_names_of_curves_that_end_together_do_not_overlap() -> None:
    rows = [Row(name, "joint", 0.5, 0.9, 0.0, 0.5, 0.0, 1, True, "") for name in "abcd"]
    svg = behind_chart(tradeoff(COUNTED, rows, "d"), WIDE)
    places = sorted(
        float(e.get("y", 0)) for e in ElementTree.fromstring(svg).iter("text") if "name" in e.get("class", "")
    )
    assert len(places) == 4
    assert min(np.diff(places)) >= 14
    assert places[-1] < WIDE.height


def test_every_name_in_a_chart_is_escaped() -> None:
    _, evidence, _ = random_evidence(classes=[HOSTILE, "b"], samples=30)
    found = tradeoff(evidence, [Row(HOSTILE, "joint", 0.5, 0.9, 0.0, 0.5, 0.0, 1, True, "")], None)
    charts = [
        score_scatter(evidence, 0, np.arange(30)),
        heatmap(np.eye(2, dtype=np.int64), evidence.classes, HOSTILE),
        reliability_chart(HOSTILE, reliability(evidence.judgement.probability[0], evidence.correct[0])),
        cost_chart(found, WIDE),
        behind_chart(found, WIDE),
    ]
    for svg in charts:
        ElementTree.fromstring(svg)
        assert not re.search(r"<script", svg)
