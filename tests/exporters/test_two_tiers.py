"""The quickstart's two tiers: where the cut is, who resolved what, and that one process says the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgeexit.errors import BackendError
from edgeexit_exporters.two_tiers import TierShare, TwoTiers, compared, cut_of
from runtime.cascades import tiny_parts


def line(name: str, label: str = "a", exit_: str = "exit0", tier: str = "local", degraded: bool = False) -> Any:
    answer = {"input": name, "label": label, "exit": exit_, "tier": tier, "degraded": degraded}
    return {**answer, "reason": "deadline"} if degraded else answer


ALONE = [line("0"), line("1", exit_="exit1"), line("2", exit_="last")]
SPLIT = [line("0"), line("1", exit_="exit1", tier="server"), line("2", exit_="last", tier="server")]


@pytest.mark.parametrize(
    ("shares", "cut"),
    [((0.5, 0.3, 0.2), 1), ((0.0, 0.8, 0.2), 2), ((0.0, 0.0, 1.0), 2), ((1.0, 0.0, 0.0), 1)],
)
def test_the_cut_is_behind_the_first_exit_that_anybody_takes(shares: tuple[float, ...], cut: int) -> None:
    manifest, _ = tiny_parts()
    summary = msgspec.structs.replace(manifest.calibration, exit_shares=shares)
    assert cut_of(msgspec.structs.replace(manifest, calibration=summary)) == cut


def test_shares_are_of_all_samples() -> None:
    found = compared(1, 3, ALONE, SPLIT)
    tiers = (TierShare("device", (0,), 1, 1 / 3), TierShare("server", (1, 2), 2, 2 / 3))
    assert found == TwoTiers(cut=1, samples=3, tiers=tiers, degraded=0, reasons=(), differing=0)


def test_a_degraded_sample_is_nobodys_and_not_compared() -> None:
    found = compared(1, 3, ALONE, [*SPLIT[:2], line("2", label="b", degraded=True)])
    assert [tier.samples for tier in found.tiers] == [1, 1]
    assert (found.degraded, found.reasons, found.differing) == (1, ("deadline",), 0)


def test_a_server_that_answered_nothing_is_an_error_with_the_reason() -> None:
    with pytest.raises(BackendError, match=r"no answer from the server\n  got: deadline"):
        compared(1, 3, ALONE, [SPLIT[0], line("1", degraded=True), line("2", degraded=True)])


@pytest.mark.parametrize("other", [line("1", label="b", exit_="exit1", tier="server"), line("1", tier="server")])
def test_another_label_or_exit_is_counted(other: Any) -> None:
    assert compared(1, 3, ALONE, [SPLIT[0], other, SPLIT[2]]).differing == 1


@pytest.mark.parametrize("split", [SPLIT[:2], [*SPLIT, SPLIT[0]], [SPLIT[0], SPLIT[0], SPLIT[2]]])
def test_a_sample_that_is_lost_or_answered_twice_is_an_error(split: Any) -> None:
    with pytest.raises(BackendError, match="not every sample was answered once"):
        compared(1, 3, ALONE, split)
