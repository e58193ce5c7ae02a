from __future__ import annotations

import pytest

from edgeexit_runtime.server.forecast import AHEAD, LEAST, REFRESHED, REMEMBERED, REMEMBERED_S, WAY_BACK, Forecast


def known(segments: int = 2) -> Forecast:
    """A sample costs a second in each segment, and half of all go on."""
    forecast = Forecast(segments)
    for _ in range(200):
        for i in range(segments):
            forecast.ran(i, 10, 0 if i == segments - 1 else 5, 10.0)
    return forecast


def test_a_sample_costs_its_segment_and_its_share_of_the_later_ones() -> None:
    forecast = known()
    assert forecast.work_s([10, 0]) == pytest.approx(15)
    assert forecast.work_s([0, 10]) == pytest.approx(10)
    assert forecast.work_s([2, 4]) == pytest.approx(7)


def away(forecast: Forecast, ran_s: float, away_s: float) -> None:
    """Many batches that ran so long, and came back so much later."""
    for i in range(200):
        forecast.given(1, 1, 100.0 * i)
        forecast.ran(1, 1, 0, ran_s)
        forecast.returned(100.0 * i + away_s)


def test_what_keeps_the_engine_from_its_next_batch_counts_as_work() -> None:
    forecast = known()
    away(forecast, 1.0, 1.5)
    assert forecast.work_s([0, 10]) == pytest.approx(15)
    away(forecast, 1.0, 0.5)  # clocks of two threads
    assert forecast.pace == 1.0


def test_of_the_batch_in_the_engine_the_rest_is_expected() -> None:
    forecast = known()
    forecast.given(1, 8, now_s=50.0)
    assert forecast.running_s(50.0) == pytest.approx(8)
    assert forecast.running_s(53.0) == pytest.approx(5)
    assert forecast.running_s(70.0) == 0.0


def test_as_many_samples_fit_a_time_as_are_answered_in_it() -> None:
    forecast = known()
    assert forecast.rows_within(0, 15.1) == 10
    assert forecast.rows_within(1, 3.5) == 3
    assert forecast.rows_within(0, -1.0) == 0


def test_where_nothing_is_known_nothing_is_foretold() -> None:
    forecast = Forecast(2)
    assert (forecast.work_s([5, 5]), forecast.rows_within(0, 1.0)) == (0.0, None)
    assert forecast.fits(0.0, 0.001, queued=True)


def test_behind_others_a_request_may_be_expected_to_take_a_part_of_its_time() -> None:
    forecast = Forecast(1)
    assert forecast.fits(AHEAD * 10, 10.0, queued=True)
    assert not forecast.fits(AHEAD * 10 + 0.01, 10.0, queued=True)


def test_the_next_one_may_be_expected_to_take_nearly_all_of_it() -> None:
    forecast = Forecast(1)
    assert forecast.fits((1 - WAY_BACK) * 10, 10.0, queued=False)
    assert not forecast.fits((1 - WAY_BACK) * 10 + 0.01, 10.0, queued=False)


def tell(forecast: Forecast, late_s: float, count: int, now_s: float = 0.0) -> None:
    for _ in range(count):
        forecast.ended(now_s, 1.0, 1.0 + late_s)


def test_the_margin_is_what_all_but_one_of_a_hundred_were_late_at_most() -> None:
    forecast = Forecast(1)
    tell(forecast, -0.5, REMEMBERED - 12)
    tell(forecast, 3.0, 12)
    assert forecast.margin_s == 3.0
    tell(forecast, -0.5, 16)  # the first of all are forgotten, and of the last 512 no fewer are late
    assert forecast.margin_s == 3.0


def test_few_that_are_late_are_within_the_share_that_may_be() -> None:
    forecast = Forecast(1)
    tell(forecast, 0.25, REMEMBERED - 4)
    tell(forecast, 3.0, 4)
    assert forecast.margin_s == 0.25


def test_the_margin_is_taken_off_the_time_that_there_is() -> None:
    forecast = Forecast(1)
    tell(forecast, 7.0, REFRESHED)
    bound_s = (1 - WAY_BACK) * 10 - 7.0
    for queued in (False, True):
        assert forecast.fits(bound_s - 0.01, 10.0, queued=queued)
        assert not forecast.fits(bound_s + 0.01, 10.0, queued=queued)


def test_requests_that_came_early_make_no_margin_below_nothing() -> None:
    forecast = Forecast(1)
    tell(forecast, -0.9, REMEMBERED)
    assert forecast.margin_s == 0.0


def test_what_is_long_ago_does_not_count() -> None:
    forecast = Forecast(1)
    tell(forecast, 3.0, REFRESHED)
    tell(forecast, 0.5, REFRESHED, now_s=REMEMBERED_S + 1)
    assert forecast.margin_s == 0.5


def test_requests_of_which_nothing_was_expected_say_nothing() -> None:
    forecast = Forecast(1)
    for _ in range(REFRESHED):
        forecast.ended(0.0, 0.0, 9.0)
    assert forecast.margin_s == 0.0


def test_however_late_others_were_somebody_is_let_in_to_show_that_it_is_over() -> None:
    forecast = Forecast(1)
    forecast.margin_s = 5.0
    assert forecast.fits(LEAST * 0.3, 0.3, queued=True)
    assert not forecast.fits(LEAST * 0.3 + 0.01, 0.3, queued=True)
