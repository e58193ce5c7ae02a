"""Which alternative is best."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import DeviceError, UnreachableError
from edgeexit_runtime.planning import GOALS, Goal, Link, Scenario, alternatives, best, best_of_each
from runtime.planning.scenarios import scenario, scenarios

goals = st.sampled_from(list(GOALS))


@settings(deadline=None, max_examples=60)
@given(scenarios(), goals)
def test_the_best_is_behind_no_other(of: Scenario, goal: Goal) -> None:
    found = alternatives(of)
    chosen = best(found, goal)
    figure = {"latency": "latency_ms", "energy": "device_mj", "server-cost": "server_ms"}[goal]
    assert getattr(chosen, figure) == min(getattr(one, figure) for one in found)


@settings(deadline=None, max_examples=60)
@given(scenarios(), goals, st.floats(0.5, 2))
def test_a_limit_on_latency_is_kept_or_refused(of: Scenario, goal: Goal, part: float) -> None:
    found = alternatives(of)
    quickest = min(one.latency_ms for one in found)
    limit_ms = quickest * part
    if part < 1:
        with pytest.raises(UnreachableError, match=f"{quickest:.3f} ms"):
            best(found, goal, limit_ms)
    else:
        assert best(found, goal, limit_ms).latency_ms <= limit_ms


@settings(deadline=None, max_examples=60)
@given(scenarios(), goals, st.one_of(st.none(), st.floats(1, 2)))
def test_the_best_is_among_the_best_of_each_row_of_cuts(of: Scenario, goal: Goal, part: float | None) -> None:
    found = alternatives(of)
    limit_ms = None if part is None else part * min(one.latency_ms for one in found)
    rows = best_of_each(found, goal, limit_ms)
    assert best(found, goal, limit_ms) in rows
    assert [one.cuts for one in rows] == list(dict.fromkeys(one.cuts for one in found))


def test_a_slow_link_keeps_everything_on_the_device() -> None:
    assert best(alternatives(scenario(link=Link(0.01, 500.0))), "latency").cuts == (3,)


def test_a_quick_link_sends_everything_to_a_quick_server() -> None:
    assert best(alternatives(scenario(link=Link(1000.0, 0.1))), "latency").cuts == (0,)


def test_between_them_the_device_keeps_what_is_easy() -> None:
    assert best(alternatives(scenario(link=Link(10.0, 7.0))), "latency").cuts == (1,)


def test_server_cost_alone_leaves_the_server_idle() -> None:
    assert best(alternatives(scenario()), "server-cost").cuts == (3,)


def test_server_cost_falls_as_more_latency_is_allowed() -> None:
    found = alternatives(scenario(link=Link(10.0, 7.0)))
    quickest_ms = best(found, "latency").latency_ms
    cuts = [best(found, "server-cost", quickest_ms + more_ms).cuts for more_ms in (0.0, 0.15, 5.0)]
    assert cuts == [(1,), (2,), (3,)]


def test_energy_without_a_measurement_is_refused() -> None:
    of = scenario()
    of = replace(of, tiers=(replace(of.tiers[0], energy_mj=None), of.tiers[1]))
    with pytest.raises(DeviceError, match="no energy"):
        best(alternatives(of), "energy")
