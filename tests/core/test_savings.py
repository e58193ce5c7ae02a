"""Distiller's table of savings."""

from __future__ import annotations

import msgspec
import pytest

from core.bundles import bundle_parts
from edgeexit.reports import ExitSavings, Savings, savings

DISTILLER = Savings(
    whole_macs=3_486_721_024,
    exits=(
        ExitSavings("exit0", 0.2272, 454_045_522, 3_137_496_064),
        ExitSavings("exit1", 0.2372, 1_605_587_538, 1_997_597_696),
        ExitSavings("last", 0.5356, 3_603_185_234, 0),
    ),
)
"""ResNet-50 on ImageNet, Distiller's figure 4: shares and MACs as printed there."""


def test_the_overhead_is_what_distiller_prints() -> None:
    assert DISTILLER.overhead_macs == 116_464_210


def test_the_share_that_exits_early_is_what_distiller_prints() -> None:
    assert DISTILLER.early_share == pytest.approx(0.4644, abs=5e-5)


def test_the_average_is_what_distiller_prints_within_the_rounding_of_its_shares() -> None:
    assert DISTILLER.mean_macs == pytest.approx(2_413_744_552, rel=1e-4)


def test_savings_and_speedup_are_what_distiller_prints() -> None:
    assert 100 * DISTILLER.saved_share == pytest.approx(30.77, abs=0.01)
    assert round(DISTILLER.speedup, 2) == 1.44


def test_what_an_exit_saves_behind_it_is_what_was_not_spent_and_is_no_overhead() -> None:
    last_early = DISTILLER.exits[1]
    assert DISTILLER.whole_macs - last_early.behind_macs + DISTILLER.overhead_macs == last_early.through_macs


def test_the_text_gives_the_figures_in_lines_of_equal_width() -> None:
    text = DISTILLER.text()
    for figure in ("116,464,210", "3,137,496,064", "454,045,522", "1,605,587,538", "3,603,185,234", "22.72", "30.77 %"):
        assert figure in text
    assert len({len(line) for line in text.splitlines() if line}) == 1


def test_a_bundle_saves_the_segments_behind_each_exit() -> None:
    manifest, _ = bundle_parts(3)
    found = savings(manifest, [0.5, 0.25, 0.25])
    assert [leaving.behind_macs for leaving in found.exits] == [200, 100, 0]
    assert [leaving.through_macs for leaving in found.exits] == [105, 210, 310]
    assert (found.whole_macs, found.overhead_macs, found.worst_macs) == (300, 10, 310)
    assert found.mean_macs == 0.5 * 105 + 0.25 * 210 + 0.25 * 310


def test_a_cascade_of_models_saves_the_models_behind_each_exit() -> None:
    manifest, _ = bundle_parts(2)
    small, large = manifest.segments
    segments = (msgspec.structs.replace(small, macs=30, head_macs=0), msgspec.structs.replace(large, macs=100))
    exits = tuple(
        msgspec.structs.replace(entry, cost_macs=macs) for entry, macs in zip(manifest.exits, (30, 130), strict=True)
    )
    manifest = msgspec.structs.replace(manifest, segments=segments, exits=exits, macs=100)
    found = savings(manifest, [0.9, 0.1])
    assert (found.overhead_macs, found.exits[0].behind_macs, found.mean_macs) == (30, 100, 40)


def test_exits_that_cost_more_than_they_save_show_as_a_negative_saving() -> None:
    nobody = Savings(100, (ExitSavings("a", 0.0, 40, 70), ExitSavings("b", 1.0, 110, 0)))
    assert nobody.saved_share == pytest.approx(-0.1)
    assert "-10.00 %" in nobody.text()


def test_a_long_name_does_not_widen_the_table_without_end() -> None:
    long = Savings(100, (ExitSavings("x" * 500, 0.5, 40, 70), ExitSavings("b", 0.5, 110, 0)))
    assert max(map(len, long.text().splitlines())) < 80


def test_the_document_holds_the_figures_of_the_text() -> None:
    document = DISTILLER.document()
    assert document["overhead_macs"] == 116_464_210
    assert document["exits"][0] == {
        "name": "exit0",
        "share": 0.2272,
        "through_macs": 454_045_522,
        "behind_macs": 3_137_496_064,
    }
