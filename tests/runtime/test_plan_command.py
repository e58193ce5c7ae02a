"""`edgeexit plan`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from core.bundles import rewrite_manifest, write_small
from core.profiles import a_profile
from edgeexit.bundle import Bundle
from edgeexit.cli import Commands
from edgeexit.profiles import write_profile
from runtime.cascades import write_tiny

COMMANDS = Commands(
    "edgeexit",
    installed=lambda: {"plan": EntryPoint("plan", "edgeexit_runtime.commands.plan:plan", "edgeexit.commands")},
)
Plan = Callable[..., Any]


@pytest.fixture
def plan(cli: Callable[..., Any], tmp_path: Path) -> Plan:
    """Plans the tiny bundle between a device and servers ten times as quick."""
    folder = write_tiny(tmp_path / "tiny")
    rewrite_manifest(folder, lambda document: document["calibration"].update(exit_shares=[0.5, 0.25, 0.25]))
    manifest = Bundle.open(folder).manifest
    write_profile(tmp_path / "device.json", a_profile(manifest, (10.0, 20.0, 30.0), energy_mj=(1.0, 2.0, 3.0)))
    write_profile(tmp_path / "server.json", a_profile(manifest, (1.0, 2.0, 3.0)))

    def run(*more: object, tiers: int = 2, link: tuple[object, ...] = ("--bandwidth", 10, "--rtt", 4)) -> Any:
        names = ["device.json", *["server.json"] * (tiers - 1)]
        profiles = [word for name in names for word in ("--profile", tmp_path / name)]
        return cli("plan", tmp_path / "tiny", *profiles, *link, *more, commands=COMMANDS)

    return run


def test_the_document_has_every_cut_and_says_which_is_best(plan: Plan) -> None:
    document = plan("--json").document()
    rows = document["alternatives"]
    assert [row["segments"] for row in rows] == [[[0, k], [k, 3]] for k in range(4)]
    assert rows[document["best"]]["latency_ms"] == min(row["latency_ms"] for row in rows)
    assert document["assumptions"]
    assert document["commands"].keys() == {"server"}


def test_the_table_marks_the_best_and_names_both_extremes(plan: Plan) -> None:
    outcome = plan()
    assert outcome.code == 0, outcome.stderr
    (marked,) = (line for line in outcome.stdout.splitlines() if line.rstrip().endswith("best"))
    assert marked.startswith("all on the server")
    assert "all on the device" in outcome.stdout
    assert "device 0, server 1–2" in outcome.stdout


def test_what_is_assumed_is_said_on_standard_error(plan: Plan) -> None:
    outcome = plan()
    assert "calibration split" in outcome.stderr
    assert "calibration split" not in outcome.stdout


def test_a_goal_and_a_limit_change_what_is_best(plan: Plan) -> None:
    document = plan("--json", "--goal", "server-cost", "--max-latency", "1000").document()
    assert document["alternatives"][document["best"]]["segments"] == [[0, 3], [3, 3]]


def test_energy_counts_the_radio(plan: Plan) -> None:
    quiet, loud = (
        plan("--json", "--goal", "energy", "--radio-watts", watts).document()["alternatives"][0]["device_mj"]
        for watts in (0, 1000)
    )
    assert quiet == 0
    assert loud > 100


def test_a_limit_that_nothing_keeps_ends_with_exit_code_5(plan: Plan) -> None:
    outcome = plan("--max-latency", "0.001")
    assert outcome.code == 5
    assert "at least" in outcome.stderr


def test_three_tiers_have_a_link_each(plan: Plan) -> None:
    document = plan("--json", tiers=3, link=("--bandwidth", 1, "--bandwidth", 100, "--rtt", 4)).document()
    assert [link["bandwidth_mbit"] for link in document["links"]] == [1, 100]
    assert len(document["alternatives"]) == 10


def test_of_many_ways_to_cut_the_table_leaves_some_out(plan: Plan) -> None:
    outcome = plan(tiers=4)
    assert outcome.code == 0, outcome.stderr
    assert "8 other ways" in outcome.stdout
    assert outcome.stdout.count("all on the") == 4


def test_bandwidths_and_round_trips_that_do_not_fit_are_a_usage_error(plan: Plan) -> None:
    assert plan(link=("--bandwidth", 1, "--bandwidth", 2, "--rtt", 1, "--rtt", 2, "--rtt", 3)).code == 2
    assert plan(link=("--bandwidth", 0, "--rtt", 1)).code == 2


def test_a_profile_of_another_bundle_is_refused(cli: Callable[..., Any], plan: Plan, tmp_path: Path) -> None:
    other = write_small(tmp_path / "other", 3)
    profiles = ("--profile", tmp_path / "device.json", "--profile", tmp_path / "server.json")
    assert cli("plan", other, *profiles, "--bandwidth", 1, "--rtt", 1, commands=COMMANDS).code == 6
