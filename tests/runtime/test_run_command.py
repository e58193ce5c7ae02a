"""`edgeexit run`: one JSON line a sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeexit.replay import replay
from runtime.cascades import COMMANDS, F32, forward, tiny_policy, write_tiny

Cli = Callable[..., Any]

LABELS = ("cat", "dog", "été")
N = 30


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "some.npz", x=samples())
    return tmp_path / "some.npz"


def samples() -> Any:
    return np.random.default_rng(4).standard_normal((N, 4)).astype(F32)


def lines(outcome: Any) -> list[Any]:
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_every_line_has_the_promised_keys(cli: Cli, bundle: Path, archive: Path) -> None:
    outcome = cli("run", bundle, archive, commands=COMMANDS)
    assert outcome.code == 0
    keys = {tuple(line) for line in lines(outcome)}
    assert keys == {("input", "label", "probability", "exit", "ms", "tier", "degraded")}


@pytest.mark.parametrize("batch", [1, 8, 100])
def test_every_sample_is_answered_once_under_its_own_name(cli: Cli, bundle: Path, archive: Path, batch: int) -> None:
    answers = replay(tiny_policy(), list(forward(samples())))
    printed = {line["input"]: line for line in lines(cli("run", bundle, archive, "--batch", batch, commands=COMMANDS))}
    assert len(printed) == N
    for i in range(N):
        line = printed[f"{archive}[{i}]"]
        assert (line["label"], line["exit"]) == (LABELS[answers.label[i]], ("exit0", "exit1", "last")[answers.exit[i]])
        assert line["probability"] == pytest.approx(float(answers.probability[i]), rel=1e-4)
        assert (line["tier"], line["degraded"]) == ("local", False)
        assert line["ms"] > 0


def test_at_batch_1_the_order_is_that_of_the_inputs(cli: Cli, bundle: Path, archive: Path) -> None:
    names = [line["input"] for line in lines(cli("run", bundle, archive, commands=COMMANDS))]
    assert names == [f"{archive}[{i}]" for i in range(N)]


def test_unresolved_samples_say_why_they_are_degraded(cli: Cli, bundle: Path, archive: Path) -> None:
    printed = lines(cli("run", bundle, archive, "--upto", 1, commands=COMMANDS))
    degraded = [line for line in printed if line["degraded"]]
    assert {line["exit"] for line in printed} == {"exit0"}
    assert 0 < len(degraded) < N
    assert {line["reason"] for line in degraded} == {"this tier runs 1 of 3 segments and none of its exits was sure"}


def test_a_picture_is_classified(cli: Cli, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path / "pictures", pictures=True)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (line,) = lines(cli("run", bundle, tmp_path / "one.png", commands=COMMANDS))
    answer = replay(tiny_policy(), list(forward(pixels[None, :, :, None])))
    assert (line["input"], line["label"]) == (str(tmp_path / "one.png"), LABELS[answer.label[0]])


def test_a_picture_that_cannot_be_read_ends_with_exit_code_4_and_its_path(cli: Cli, tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path / "pictures", pictures=True)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    outcome = cli("run", bundle, tmp_path / "broken.png", commands=COMMANDS)
    assert (outcome.code, str(tmp_path / "broken.png") in outcome.stderr) == (4, True)


def test_a_path_that_does_not_exist_ends_with_exit_code_4(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    assert cli("run", bundle, tmp_path / "none.npz", commands=COMMANDS).code == 4


def test_a_bundle_that_does_not_exist_ends_with_exit_code_3(cli: Cli, archive: Path, tmp_path: Path) -> None:
    assert cli("run", tmp_path / "none", archive, commands=COMMANDS).code == 3


def test_more_segments_than_there_are_is_a_usage_error(cli: Cli, bundle: Path, archive: Path) -> None:
    assert cli("run", bundle, archive, "--upto", 4, commands=COMMANDS).code == 2


def test_no_paths_are_a_usage_error(cli: Cli, bundle: Path) -> None:
    assert cli("run", bundle, commands=COMMANDS).code == 2
