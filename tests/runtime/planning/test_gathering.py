"""Scenarios out of bundles and profiles."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from core.profiles import a_profile
from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError
from edgeexit.manifest import PayloadEntry
from edgeexit_runtime.planning import Link, TierCosts, gather
from runtime.cascades import write_tiny

LINK = Link(10.0, 5.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny(tmp_path / "tiny"))


def test_shares_and_names_are_the_bundles(bundle: Bundle) -> None:
    found = gather(bundle, [a_profile(bundle.manifest)] * 2, [LINK])
    assert found.exits == ("exit0", "exit1", "last")
    assert found.shares == bundle.manifest.calibration.exit_shares
    assert [tier.name for tier in found.tiers] == ["device", "server"]


def test_in_front_of_the_first_segment_is_the_input_alone(bundle: Bundle) -> None:
    (payload,) = gather(bundle, [a_profile(bundle.manifest)] * 2, [LINK]).payloads[0]
    assert (payload.is_input, payload.size_bytes) == (True, 16)


def test_what_rounding_changes_has_to_be_known_before_it_is_offered(bundle: Bundle) -> None:
    payloads = gather(bundle, [a_profile(bundle.manifest)] * 2, [LINK]).payloads[1]
    assert [(p.precision, p.size_bytes) for p in payloads] == [("input", 16), ("fp32", 48)]


def test_what_export_measured_decides_on_a_precision(bundle: Bundle) -> None:
    entries = tuple(
        PayloadEntry(precision=precision, size_bytes=size, compressed_bytes=size, changed=changed)
        for precision, size, changed in (("fp32", 48, 0.0), ("fp16", 24, 0.01), ("uint8", 28, 0.001))
    )
    first, second, third = bundle.manifest.segments
    segments = (first, msgspec.structs.replace(second, payloads=entries), third)
    manifest = msgspec.structs.replace(bundle.manifest, segments=segments)
    measured = Bundle(bundle.path, manifest, bundle.size_bytes, bundle.contents, bundle.exits)
    payloads = gather(measured, [a_profile(manifest)] * 2, [LINK]).payloads[1]
    assert [(p.precision, p.changed) for p in payloads] == [("input", 0.0), ("fp32", 0.0), ("uint8", 0.001)]


def test_a_precision_that_is_asked_for_is_the_only_one(bundle: Bundle) -> None:
    payloads = gather(bundle, [a_profile(bundle.manifest)] * 2, [LINK], precision="uint8").payloads[2]
    assert [p.precision for p in payloads] == ["input", "uint8"]


def test_one_link_stands_for_all(bundle: Bundle) -> None:
    found = gather(bundle, [a_profile(bundle.manifest)] * 3, [LINK])
    assert found.links == (LINK, LINK)
    assert [tier.name for tier in found.tiers] == ["device", "gateway", "server"]


@pytest.mark.parametrize(("profiles", "links"), [(1, 1), (5, 1), (2, 2), (4, 2)])
def test_tiers_and_links_that_do_not_fit_are_refused(bundle: Bundle, profiles: int, links: int) -> None:
    with pytest.raises(UsageError):
        gather(bundle, [a_profile(bundle.manifest)] * profiles, [LINK] * links)


def test_a_tiers_cost_is_that_of_the_batch_that_is_quickest_a_sample(bundle: Bundle) -> None:
    tier = TierCosts.of("server", a_profile(bundle.manifest))
    assert tier.batch == 16
    assert tier.busy_ms == pytest.approx([(18.25 + 0.04) / 16] * 3)


def test_a_slow_large_batch_is_not_taken(bundle: Bundle) -> None:
    profile = a_profile(bundle.manifest)
    slow = tuple(msgspec.structs.replace(s, run_ms=(1.5, 5.0, 90.0)) for s in profile.segments)
    assert TierCosts.of("server", msgspec.structs.replace(profile, segments=slow)).batch == 4
