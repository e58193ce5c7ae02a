"""Every way to cut, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from math import comb, inf

import pytest
from hypothesis import given, settings

from edgeexit.errors import UsageError
from edgeexit_runtime.planning import Link, Payload, Scenario, alternatives, evaluate
from edgeexit_runtime.planning.alternatives import MESSAGE_BYTES
from runtime.planning.scenarios import scenario, scenarios, tier, walked_ms

near = pytest.approx


@settings(deadline=None, max_examples=60)
@given(scenarios())
def test_the_latency_is_the_mean_of_samples_walked_through_the_tiers(of: Scenario) -> None:
    for one in alternatives(of):
        walked = [walked_ms(of, one, e) for e in range(of.count)]
        assert one.latency_ms == near(sum(s * ms for s, ms in zip(of.shares, walked, strict=True)), rel=1e-6)
        assert one.last_ms == near(walked[-1], rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(scenarios())
def test_every_row_of_cuts_is_there_once_with_each_choice_of_payloads(of: Scenario) -> None:
    found = alternatives(of)
    assert len({one.cuts for one in found}) == comb(of.count + len(of.links), len(of.links))
    assert len({(one.cuts, one.payloads) for one in found}) == len(found)


@settings(deadline=None, max_examples=40)
@given(scenarios())
def test_latency_is_the_sum_of_its_parts(of: Scenario) -> None:
    for one in alternatives(of):
        assert one.latency_ms == near(sum(one.tier_ms) + one.network_ms)
        assert min(*one.tier_ms, one.network_ms, *one.busy_ms) >= 0


@settings(deadline=None, max_examples=40)
@given(scenarios())
def test_all_on_the_device_does_not_know_of_links(of: Scenario) -> None:
    (local,) = (one for one in alternatives(of) if one.cuts[0] == of.count)
    expected = sum(s * ms for s, ms in zip(of.shares, of.tiers[0].exits_ms, strict=True))
    assert local.latency_ms == near(expected)
    assert (local.network_ms, local.server_ms, sum(local.sent_bytes)) == (0, 0, 0)


@settings(deadline=None, max_examples=40)
@given(scenarios(tiers=2))
def test_with_equal_tiers_and_no_way_between_every_cut_takes_as_long(of: Scenario) -> None:
    of = replace(of, tiers=(of.tiers[0], of.tiers[0]), links=(Link(inf, 0.0),))
    boundaries = [
        one for one in alternatives(of) if one.cuts[0] == 0 or not (one.payloads[0] or Payload("", 0)).is_input
    ]
    local = boundaries[-1].latency_ms
    assert all(one.latency_ms == near(local) for one in boundaries)


@settings(deadline=None, max_examples=40)
@given(scenarios())
def test_no_alternative_is_slower_over_better_links(of: Scenario) -> None:
    better = replace(of, links=tuple(Link(2 * link.bandwidth_mbit, link.rtt_ms / 2) for link in of.links))
    pairs = zip(alternatives(of), alternatives(better), strict=True)
    assert all(now.latency_ms <= before.latency_ms * (1 + 1e-9) for before, now in pairs)


@settings(deadline=None, max_examples=40)
@given(scenarios(tiers=2))
def test_the_later_the_cut_the_fewer_are_sent(of: Scenario) -> None:
    sent = {one.cuts[0]: one.sent[0] for one in alternatives(of)}
    assert sent[0] == near(1)
    assert sent[of.count] == 0
    assert all(sent[k] > sent[k + 1] for k in range(of.count))


def test_sent_bytes_are_the_share_times_payload_and_message() -> None:
    one = evaluate(scenario(), (1,), (Payload("fp16", 2000),))
    assert one.sent == (0.5,)
    assert one.sent_bytes == (0.5 * (2000 + MESSAGE_BYTES),)


def test_the_network_takes_the_round_trip_and_the_payloads_time() -> None:
    link = Link(8.0, 5.0)  # 8 Mbit/s are 1000 bytes a millisecond
    one = evaluate(scenario(link=link), (1,), (Payload("fp16", 2000 - MESSAGE_BYTES),))
    assert one.network_ms == near(0.5 * (5 + 2))


def test_behind_the_boundary_the_server_goes_on_where_the_device_stopped() -> None:
    one = evaluate(scenario(), (1,), (Payload("fp16", 2000),))
    assert one.tier_ms == near((4.0, 0.3 * 2 + 0.2 * 6))


def test_behind_the_input_the_server_begins_anew() -> None:
    one = evaluate(scenario(), (1,), scenario().payloads[0])
    assert one.tier_ms == near((4.0, 0.3 * 3 + 0.2 * 7))


def test_server_cost_is_that_of_batches() -> None:
    one = evaluate(scenario(), (1,), (Payload("fp16", 2000),))
    assert one.server_ms == near((0.3 * 2 + 0.2 * 6) / 2)


def test_the_device_spends_energy_on_running_and_on_sending() -> None:
    link = Link(8.0, 5.0)
    one = evaluate(scenario(link=link, radio_watts=2.0), (1,), (Payload("fp16", 1000 - MESSAGE_BYTES),))
    assert one.device_mj == near(3 * 4.0 + 0.5 * 2.0 * 1.0)


def test_energy_is_unknown_where_the_devices_profile_does_not_tell() -> None:
    of = scenario()
    of = replace(of, tiers=(replace(of.tiers[0], energy_mj=None), of.tiers[1]))
    assert {one.device_mj for one in alternatives(of)} == {None}


def test_a_tier_without_segments_passes_on_what_it_gets() -> None:
    of = scenario()
    of = replace(of, tiers=(*of.tiers, tier("far", 1.0, 1.0, 1.0)), links=(*of.links, Link(1.0, 20.0)))
    through = [one for one in alternatives(of) if one.cuts == (1, 1)]
    assert [p.precision for one in through for p in one.payloads if p] == ["input"] * 2 + ["fp16"] * 2
    assert all(one.tier_ms[1] == 0 and one.sent[0] == one.sent[1] for one in through)


def test_a_tier_that_got_no_input_cannot_send_it() -> None:
    of = scenario()
    of = replace(of, tiers=(*of.tiers, tier("far", 1.0, 1.0, 1.0)), links=(*of.links, Link(1.0, 20.0)))
    rows = [tuple(p.precision for p in one.payloads if p) for one in alternatives(of) if one.cuts == (1, 2)]
    assert rows == [("input", "input"), ("input", "fp16"), ("fp16", "fp16")]


@pytest.mark.parametrize(
    ("bandwidth", "rtt"), [(0, 1), (-1, 1), (float("nan"), 1), (1, -1), (1, inf), (1, float("nan"))]
)
def test_a_link_that_cannot_be_is_refused(bandwidth: float, rtt: float) -> None:
    with pytest.raises(UsageError):
        Link(bandwidth, rtt)


def test_parts_that_do_not_fit_are_refused() -> None:
    of = scenario()
    for changes in ({"shares": (1.0,)}, {"links": ()}, {"tiers": ()}, {"payloads": of.payloads[1:]}):
        with pytest.raises(UsageError):
            replace(of, **changes)  # type: ignore[arg-type]
