from __future__ import annotations

import numpy as np
import pytest

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.link import Link


def test_nothing_is_known_before_a_message() -> None:
    link = Link()
    assert (link.rtt_s, link.bytes_per_s, link.seconds(1)) == (None, None, None)


def test_light_messages_tell_the_round_trip_and_heavy_ones_the_bandwidth() -> None:
    link = Link()
    for _ in range(20):
        link.observe(200, 0.010)
        link.observe(100_000, 0.010 + 100_000 / 1e6)
    assert link.rtt_s == pytest.approx(0.010)
    assert link.bytes_per_s == pytest.approx(1e6)
    assert link.seconds(50_000) == pytest.approx(0.060)


def test_heavy_messages_of_different_sizes_agree_on_the_bandwidth() -> None:
    link = Link()
    link.observe(200, 0.001)
    for size in (10_000, 300_000, 20_000, 90_000) * 10:
        link.observe(size, 0.001 + size / 2e6)
    assert link.bytes_per_s == pytest.approx(2e6)


def test_a_change_of_bandwidth_is_followed() -> None:
    link = Link()
    link.observe(200, 0.001)
    for bandwidth in (1e7, 1e5, 1e6):
        for _ in range(40):
            link.observe(50_000, 0.001 + 50_000 / bandwidth)
        assert link.bytes_per_s == pytest.approx(bandwidth, rel=0.05)


def test_a_link_without_light_messages_counts_everything_as_carrying() -> None:
    link = Link()
    link.observe(1_000_000, 2.0)
    assert (link.rtt_s, link.bytes_per_s, link.seconds(500_000)) == (None, 500_000, 1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.0005])
def test_a_round_trip_is_shorter_than_a_message_took_and_the_estimates_stay_finite(seconds: float) -> None:
    link = Link()
    link.observe(200, 0.001)
    link.observe(2000, seconds)
    assert link.bytes_per_s is not None
    assert 0 < link.bytes_per_s <= 1e11
    assert link.rtt_s == max(seconds, 0.0) / 2


def test_a_heavy_message_quicker_than_the_round_trip_makes_no_bandwidth_without_end() -> None:
    link = Link()
    link.observe(200, 0.015)
    link.observe(150_000, 0.013)
    seconds = link.seconds(1_500_000)
    assert seconds is not None
    assert seconds > 0.05


def test_a_first_round_trip_that_took_too_long_is_corrected_by_heavy_messages() -> None:
    link = Link()
    link.observe(200, 0.500)
    for size in (3000, 60_000) * 30:
        link.observe(size, 0.010 + size / 1e6)
    assert link.seconds(60_000) == pytest.approx(0.070, rel=0.2)


def test_a_round_trip_that_became_longer_is_followed() -> None:
    link = Link()
    for seconds in (0.001, *(0.100,) * 40):
        link.observe(200, seconds)
    assert link.rtt_s == pytest.approx(0.1, rel=0.05)


def test_what_keeps_the_machine_busy_hardly_hides_the_bandwidth() -> None:
    random = np.random.default_rng(0)
    link = Link()
    link.observe(200, 0.001)
    for _ in range(200):
        link.observe(50_000, 0.001 + 50_000 / 1e7 + random.exponential(0.005))
    assert link.bytes_per_s is not None
    assert link.bytes_per_s > 0.6e7  # the mean would say half of it


def test_a_message_that_was_given_up_tells_that_the_link_is_slower_than_it_was_taken_for() -> None:
    link = Link()
    link.observe(200, 0.001)
    link.given_up(50_000, 0.5)
    assert link.bytes_per_s == pytest.approx(1e5, rel=0.01)
    before = link.bytes_per_s
    link.given_up(50_000, 0.1)
    link.given_up(200, 9.0)
    assert (link.bytes_per_s, link.rtt_s) == (before, 0.001)
    link.given_up(50_000, 5.0)
    assert link.bytes_per_s < before


@pytest.mark.parametrize("weights", [(0.0, 0.5), (-1.0, 0.5), (0.5, 1.5), (0.5, 0.1)])
def test_weights_out_of_range_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(UsageError):
        Link(*weights)
