"""`edgeexit build` on a fake device."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeexit.errors import UsageError
from runtime.cascades import COMMANDS, EXITS, write_tiny
from runtime.tensorrt.devices import FakeDevice

MIXES = "mix_stderr" in signature(CliRunner).parameters
RUNNER = CliRunner(**({"mix_stderr": False} if MIXES else {}))  # before click 8.2 it mixes unless told not to


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny", pictures=True)


def build(bundle: Path, device: FakeDevice, *options: str) -> Any:
    def open_backend(*, cache: Path | None, timings: Any, ranges: Any, workspace_mb: Any) -> Any:
        assert cache in (None, device.cache)
        lasts = None if ranges is None else [last for _, last in ranges]
        return device.backend(lasts, timings=timings, workspace_mb=workspace_mb)

    arguments = ["build", str(bundle), "--json", *options]
    result = RUNNER.invoke(COMMANDS, arguments, obj=open_backend, catch_exceptions=False)
    return json.loads(result.stdout)


def test_every_engine_is_built_once(bundle: Path, tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    first = build(bundle, device)
    assert [row["built"] for row in first["segments"]] == [True] * EXITS
    assert first["segments"][0]["batches"] == ["1", "2–8", "9–64", "65–128"]
    assert first["machine"]["tensorrt"] == "10.3.0"
    assert [row["built"] for row in build(bundle, device)["segments"]] == [False] * EXITS


def test_other_ranges_are_built_and_the_reason_is_told(bundle: Path, tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    build(bundle, device)
    row = build(bundle, device, "--batches", "1,16")["segments"][0]
    assert row["batches"] == ["1", "2–16"]
    assert row["reasons"] == ["batches: was 1, 2–8, 9–64, 65–128, is 1, 2–16"]


def test_a_foreign_engine_is_replaced_without_being_loaded(bundle: Path, tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    build(bundle, device)
    device.engines()[0].write_bytes(b"foreign")
    rows = build(bundle, device)["segments"]
    assert sorted(row["built"] for row in rows) == [False, False, True]
    assert device.trt.deserialised == []


def test_a_table_for_people_is_printed(bundle: Path, tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    result = RUNNER.invoke(COMMANDS, ["build", str(bundle)], obj=lambda **_: device.backend())
    assert "Fake GPU, TensorRT 10.3.0" in result.stdout
    assert result.stdout.count("segments/") == EXITS


@pytest.mark.parametrize("batches", ["8,1", "0", "1,,2", "x"])
def test_batches_that_make_no_ranges_are_a_usage_error(bundle: Path, batches: str) -> None:
    result = RUNNER.invoke(COMMANDS, ["build", str(bundle), "--batches", batches])
    assert isinstance(result.exception, UsageError) or result.exit_code == 2
    assert result.stdout == ""
