"""`edgeexit profile`: a file that other commands read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.profiles import read_profile
from runtime.cascades import COMMANDS, F32, write_tiny

Cli = Callable[..., Any]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.eexit")


@pytest.fixture
def profile(cli: Cli, bundle: Path) -> Cli:
    """Runs `edgeexit profile` on the tiny bundle, as quickly as it goes."""

    def run(*arguments: object) -> Any:
        return cli("profile", bundle, "--seconds", 0, "--batch", "1,4", *arguments, commands=COMMANDS)

    return run


def test_the_file_is_of_the_bundle(profile: Cli, bundle: Path, tmp_path: Path) -> None:
    assert profile("-o", tmp_path / "p.json").code == 0
    found = read_profile(tmp_path / "p.json", Bundle.open(bundle))
    assert (found.batches, found.threads, found.backend, found.target) == ((1, 4), 1, "onnxruntime", None)


def test_the_document_is_the_profile(profile: Cli, tmp_path: Path) -> None:
    document = profile("-o", tmp_path / "p.json", "--json").document()
    found = read_profile(tmp_path / "p.json")
    assert document["exits_ms"] == list(found.exits_ms)
    assert [entry["name"] for entry in document["segments"]] == [entry.name for entry in found.segments]


def test_batch_1_is_always_measured_and_sizes_are_put_in_order(profile: Cli) -> None:
    assert profile("--batch", "8,2,8", "--json").document()["batches"] == [1, 2, 8]


def test_a_targets_settings_are_used_and_named(profile: Cli) -> None:
    document = profile("--target", "raspberry-pi-5", "--json").document()
    assert (document["target"], document["threads"]) == ("raspberry-pi-5", 4)
    assert profile("--target", "raspberry-pi-5", "--threads", 2, "--json").document()["threads"] == 2


def test_samples_of_the_user_need_no_labels(profile: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 4), F32))
    assert profile("--data", tmp_path / "data.npz", "--json").code == 0


def test_the_table_says_what_an_exit_takes_and_why_there_is_no_energy(profile: Cli) -> None:
    stdout = profile().stdout
    assert "ms until it answers" in stdout
    assert "mJ until it answers" in stdout


def test_the_profile_can_be_tuned_with(profile: Cli, cli: Cli, bundle: Path, tmp_path: Path) -> None:
    profile("-o", tmp_path / "p.json")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=random.standard_normal((120, 4)).astype(F32))
    outcome = cli(
        "tune", bundle, "--data", tmp_path / "data.npz", "--labels", "model", "--budget", 1000, "--unit", "ms",
        "--profile", tmp_path / "p.json", "-o", tmp_path / "tuned", "--json", commands=COMMANDS,
    )  # fmt: skip
    found = read_profile(tmp_path / "p.json")
    assert [row["ms"] for row in outcome.document()["exits"]] == list(found.exits_ms)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--batch", "0"), 2),
        (("--batch", "1,x"), 2),
        (("--batch", "99999999999999999999"), 2),
        (("--batch", "٣"), 2),
        (("--seconds", "-1"), 2),
        (("--target", "abacus"), 2),
        (("--backend", "abacus"), 2),
        (("-o", "/none/p.json"), 2),
    ],
)
def test_a_request_that_makes_no_sense_is_a_usage_error(profile: Cli, arguments: tuple[str, ...], code: int) -> None:
    outcome = profile(*arguments, "--json")
    assert (outcome.code, outcome.stdout) == (code, "")


def test_a_target_file_with_a_wrong_unit_ends_with_exit_code_6(profile: Cli, tmp_path: Path) -> None:
    pi = (Path(__file__).parents[2] / "targets" / "raspberry-pi-5.toml").read_text()
    (tmp_path / "board.toml").write_text(pi.replace('unit = "GiB"', 'unit = "GB"'))
    assert profile("--target", tmp_path / "board.toml").code == 6


def test_another_file_is_not_written_over(profile: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert profile("-o", tmp_path / "notes.txt").code == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
