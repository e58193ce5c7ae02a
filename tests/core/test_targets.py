"""Targets: the shipped files and the loader."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import DeviceError, UsageError
from edgeexit.targets import Target, load_target, target_names

REPOSITORY = Path(__file__).parents[2]
PI = (REPOSITORY / "targets" / "raspberry-pi-5.toml").read_text()
JETSON = (REPOSITORY / "targets" / "jetson-orin-nano.toml").read_text()

Cli = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a target file."""

    def target_file(content: str) -> Path:
        path = tmp_path / "board.toml"
        path.write_text(content)
        return path

    return target_file


def test_the_known_devices_are_these() -> None:
    assert target_names() == (
        "jetson-agx-orin",
        "jetson-orin-nano",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "x86-64-laptop",
        "x86-64-server",
    )


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_named_as_its_file(name: str) -> None:
    assert load_target(name).name == name


@pytest.mark.parametrize("name", target_names())
def test_a_target_asks_for_no_more_threads_than_cores(name: str) -> None:
    target = load_target(name)
    assert 1 <= target.threads <= target.cores.value


@pytest.mark.parametrize("name", target_names())
def test_every_setting_is_marked_as_our_choice(name: str) -> None:
    settings = load_target(name).settings
    facts = (settings.threads, settings.spinning, settings.arena, settings.memory_pattern, settings.precision)
    assert all(fact.source.startswith("our choice: ") for fact in facts)


@pytest.mark.parametrize("name", [name for name in target_names() if name.startswith("jetson")])
def test_a_jetson_states_its_tensorrt_range_and_power_modes(name: str) -> None:
    jetson = load_target(name).jetson
    assert jetson is not None
    assert (jetson.tensorrt.minimum, jetson.tensorrt.below) == ("10.3", "11")
    assert all(mode.cores.value <= load_target(name).cores.value for mode in jetson.power_modes)


def test_a_target_may_come_from_a_file_of_the_user(write: Callable[[str], Path]) -> None:
    assert load_target(str(write(PI.replace("threads = { value = 4", "threads = { value = 2")))).threads == 2


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (PI.replace('unit = "GiB"', 'unit = "GB"'), "memory.unit"),
        (PI.replace('unit = "GHz"', 'unit = "MHz"'), "clock.unit"),
        (JETSON.replace('unit = "W"', 'unit = "mW"', 1), "jetson.power_modes[0].power.unit"),
        (PI + "\nspeed = 3\n", "system.speed"),
        ("speed = 3\n" + PI, "speed"),
        (PI.replace("value = 8,", "value = 8, bytes = 1,"), "memory.bytes"),
        (PI.replace("value = 4", "value = 0", 1), "cores.value"),
        (PI.replace('unit = "cores", ', ""), "cores.unit"),
        (PI.replace("value = false", 'value = "no"'), "settings.spinning.value"),
        (PI.replace('"fp32"', '"fp8"'), "settings.precision.value"),
        (PI.replace("[settings]", "[other]"), "other"),
        (PI.replace("value = 8,", "value = inf,"), "memory.value"),
        (PI.replace("value = 8,", "value = nan,"), "memory.value"),
        (PI.replace("value = 4", "value = 999999999999", 1), "cores.value"),
        (PI.replace("value = 4", 'value = "4"', 1), "cores.value"),
        (PI.replace("value = true", "value = 1"), "settings.arena.value"),
        (PI.replace("arena = ", "arenas = "), "settings.arenas"),
        (JETSON.replace('"10.3", below', '"ten", below'), "jetson.tensorrt.minimum"),
    ],
)
def test_a_key_unit_or_value_that_is_wrong_is_named_with_its_file(
    write: Callable[[str], Path], content: str, key: str
) -> None:
    with pytest.raises(DeviceError) as refused:
        load_target(write(content))
    assert refused.value.problem.startswith(f"{write(content)}: {key} ")


@pytest.mark.parametrize("content", ["name =", "\x00", "a = " + "[" * 9999, "a = " + "9" * 9999, "a = 2026-13-45"])
def test_a_file_that_is_not_toml_is_refused(write: Callable[[str], Path], content: str) -> None:
    with pytest.raises(DeviceError, match="is not valid TOML"):
        load_target(write(content))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DeviceError, match="is not valid TOML"):
        load_target(tmp_path / "board.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the target file"):
        load_target(tmp_path / "none.toml")


@given(st.data())
def test_a_mutated_file_is_a_target_or_a_device_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from([PI, JETSON])).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_bytes(content)
    with contextlib.suppress(DeviceError):
        assert isinstance(load_target(path), Target)


def test_a_pipe_or_a_file_of_megabytes_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(DeviceError, match="is not a target"):
        load_target(tmp_path / "pipe.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * 100_000)
    with pytest.raises(DeviceError, match="too large"):
        load_target(tmp_path / "large.toml")


def test_a_path_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(UsageError):
        load_target("a\0b.toml")


@pytest.mark.parametrize("name", [name for name in target_names() if not name.startswith("x86")])
def test_a_board_is_known_by_what_it_calls_itself(name: str) -> None:
    boards = {known: load_target(known).board for known in target_names()}
    board = boards[name]
    assert board is not None
    assert [known for known, other in boards.items() if other and other.value.startswith(board.value)] == [name]


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError) as refused:
        load_target("raspberry-pi5")
    assert refused.value.remedy == "raspberry-pi-5"


def test_the_command_lists_every_device(cli: Cli) -> None:
    outcome = cli("targets")
    assert all(name in outcome.stdout for name in target_names())


def test_the_command_prints_one_json_document(cli: Cli) -> None:
    document = cli("targets", "--json").document()
    assert [target["name"] for target in document["targets"]] == list(target_names())


def test_the_command_shows_one_device_with_its_sources(cli: Cli) -> None:
    assert "Raspberry Pi 5 product brief" in cli("targets", "raspberry-pi-5").stdout


def test_one_device_as_json_carries_values_units_and_sources(cli: Cli) -> None:
    memory = cli("targets", "jetson-agx-orin", "--json").document()["memory"]
    assert (memory["value"], memory["unit"], "source" in memory) == (64.0, "GiB", True)


def test_the_command_refuses_an_unknown_device_with_exit_code_2(cli: Cli) -> None:
    outcome = cli("targets", "abacus", "--json")
    assert (outcome.code, outcome.stdout) == (2, "")


def test_a_file_with_a_wrong_unit_ends_with_exit_code_6(cli: Cli, write: Callable[[str], Path]) -> None:
    outcome = cli("targets", write(PI.replace('unit = "GiB"', 'unit = "GB"')), "--json")
    assert (outcome.code, outcome.stdout) == (6, "")
    assert "memory.unit is not the unit of memory" in outcome.stderr
