"""Targets: the shipped files and the loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.errors import UsageError
from edgeexit.targets import load_target, target_names

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
    sources = (settings.threads.source, settings.spinning.source, settings.precision.source)
    assert all(source.startswith("our choice: ") for source in sources)


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
        (PI + "\nspeed = 3\n", "settings.speed"),
        ("speed = 3\n" + PI, "speed"),
        (PI.replace("value = 8,", "value = 8, bytes = 1,"), "memory.bytes"),
        (PI.replace("value = 4", "value = 0", 1), "cores.value"),
        (PI.replace('unit = "cores", ', ""), "cores.unit"),
        (PI.replace("value = false", 'value = "no"'), "settings.spinning.value"),
        (PI.replace('"fp32"', '"fp8"'), "settings.precision.value"),
        (PI.replace("[settings]", "[other]"), "other"),
        (JETSON.replace('"10.3", below', '"ten", below'), "jetson.tensorrt.minimum"),
    ],
)
def test_a_key_unit_or_value_that_is_wrong_is_named_with_its_file(
    write: Callable[[str], Path], content: str, key: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load_target(write(content))
    assert refused.value.problem.startswith(f"{write(content)}: {key} ")


@pytest.mark.parametrize("content", ["name =", "\x00"])
def test_a_file_that_is_not_toml_is_refused(write: Callable[[str], Path], content: str) -> None:
    with pytest.raises(UsageError, match="is not valid TOML"):
        load_target(write(content))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not valid TOML"):
        load_target(tmp_path / "board.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the target file"):
        load_target(tmp_path / "none.toml")


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
