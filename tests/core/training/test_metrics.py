"""Metrics: lines that survive a kill, numbers that JSON knows, and events where they can be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeexit.errors import UsageError  # noqa: E402 torch may be missing
from edgeexit.training.loop.metrics import METRICS_FILE, Metrics  # noqa: E402


def record(step: int, loss: float = 1.0) -> dict[str, object]:
    return {"kind": "epoch", "epoch": step // 10, "step": step, "loss": loss, "exits": {"a": {"accuracy": 0.5}}}


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_each_record_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    with Metrics(tmp_path, quiet=True) as metrics:
        metrics.write(record(10))
        assert lines(tmp_path) == [record(10)]
        metrics.write(record(20))
    assert lines(tmp_path) == [record(10), record(20)]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with Metrics(tmp_path, quiet=True) as metrics:
        metrics.write(record(10, float("nan")))
    assert lines(tmp_path)[0]["loss"] is None


def test_a_run_that_goes_on_drops_what_came_behind_its_checkpoint_and_torn_lines(tmp_path: Path) -> None:
    with Metrics(tmp_path, quiet=True) as metrics:
        for step in (10, 20, 30):
            metrics.write(record(step))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"kind": "ep')
    with Metrics(tmp_path, after=20, quiet=True) as metrics:
        metrics.write(record(30, 2.0))
    assert lines(tmp_path) == [record(10), record(20), record(30, 2.0)]


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    for _ in range(2):
        with Metrics(tmp_path, quiet=True) as metrics:
            metrics.write(record(10))
    assert len(lines(tmp_path)) == 1


def test_numbers_become_scalars_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="events need tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 the file's layout is its

    with Metrics(tmp_path, quiet=True) as metrics:
        metrics.write(record(10, 0.25))
    (path,) = (tmp_path / "events").iterdir()
    data, found = path.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert found == {"epoch/loss": (10, 0.25), "epoch/exits/a/accuracy": (10, 0.5)}


def test_without_tensorboard_there_is_a_note_and_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with Metrics(tmp_path) as metrics:
        metrics.write(record(10))
    assert "tensorboardX" in capsys.readouterr().err
    assert lines(tmp_path) == [record(10)]
    with Metrics(tmp_path, quiet=True):
        assert capsys.readouterr().err == ""


def test_without_a_folder_nothing_is_written() -> None:
    with Metrics(None) as metrics:
        metrics.write(record(10))


def test_a_file_that_cannot_be_written_is_an_error_of_use(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        Metrics(tmp_path)
