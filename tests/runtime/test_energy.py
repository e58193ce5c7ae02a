"""Energy meters, on made-up machines and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import BackendError
from edgeexit_runtime.energy import InaMeter, RaplMeter, find_meter, joules_each

RANGE_UJ = 262_143_328_850


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")
    return path


def rapl_zone(root: Path, zone: str, name: str, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap" / zone
    write(folder / "name", name)
    write(folder / "max_energy_range_uj", RANGE_UJ)
    return write(folder / "energy_uj", energy_uj)


def ina_rail(root: Path, chip: str, channel: int, name: str, millivolts: int, milliamperes: int) -> Path:
    folder = root / "sys/bus/i2c/drivers/ina3221" / chip / "hwmon/hwmon1"
    write(folder / f"in{channel}_label", name)
    write(folder / f"in{channel}_input", millivolts)
    return write(folder / f"curr{channel}_input", milliamperes)


def found(root: Path) -> RaplMeter | InaMeter:
    meter, note = find_meter(root)
    assert isinstance(meter, RaplMeter | InaMeter), note
    return meter


def test_packages_and_memory_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }
    files = {zone: rapl_zone(tmp_path, zone, name, 1_000_000) for zone, name in zones.items()}
    with found(tmp_path) as meter:
        for path in files.values():
            path.write_text("3500000\n")
        assert meter.joules() == pytest.approx(3 * 2.5)


def test_a_counter_that_began_anew_is_noticed(tmp_path: Path) -> None:
    path = rapl_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    with found(tmp_path) as meter:
        path.write_text("2000000\n")
        assert meter.joules() == pytest.approx(3.0)
        path.write_text("2500000\n")
        assert meter.joules() == pytest.approx(3.5)


def test_counting_begins_when_the_meter_is_entered(tmp_path: Path) -> None:
    path = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = found(tmp_path)
    path.write_text("9000000\n")
    with meter:
        assert meter.joules() == 0.0


def test_a_counter_that_may_not_be_read_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read_text = Path.read_text

    def refuse(self: Path, *arguments: object, **options: object) -> str:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read_text(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    meter, note = find_meter(tmp_path)
    assert meter is None
    assert f"sudo chmod a+r {path}" in note


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    assert find_meter(tmp_path) == (None, "this device has no sensor for energy that the system shows (RAPL, INA3221)")


class Steps:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = -1.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_power_is_integrated_between_samples(tmp_path: Path) -> None:
    current = ina_rail(tmp_path, "1-0040", 1, "VDD_IN", 5000, 1000)
    rails = found(tmp_path)._rails  # type: ignore[union-attr]
    clock = Steps()
    with InaMeter(rails, clock=clock, interval_s=1e6) as meter:
        assert meter.joules() == pytest.approx(5.0)  # a second at 5 W
        current.write_text("3000\n")
        assert meter.joules() == pytest.approx(5.0 + 10.0)  # a second from 5 to 15 W
        assert meter.joules() == pytest.approx(15.0 + 15.0)


def test_the_whole_module_is_one_rail_where_there_is_one(tmp_path: Path) -> None:
    for channel, name in enumerate(("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), start=1):
        ina_rail(tmp_path, "1-0040", channel, name, 5000, 100)
    assert find_meter(tmp_path)[1].startswith("INA3221: VDD_IN; ")


def test_the_rails_of_an_agx_are_added_without_those_that_branch_off(tmp_path: Path) -> None:
    for channel, name in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), start=1):
        ina_rail(tmp_path, "1-0040", channel, name, 20_000, 100)
    ina_rail(tmp_path, "1-0041", 2, "VDDQ_VDD2_1V8AO", 5000, 100)
    rails = found(tmp_path)._rails  # type: ignore[union-attr]
    with InaMeter(rails, clock=Steps(), interval_s=1e6) as meter:
        assert meter.joules() == pytest.approx(6.0)


def test_rails_that_are_not_known_are_not_added(tmp_path: Path) -> None:
    ina_rail(tmp_path, "1-0040", 1, "VDD_MYSTERY", 5000, 100)
    meter, note = find_meter(tmp_path)
    assert meter is None
    assert "VDD_MYSTERY" in note


def test_a_thread_takes_samples_and_ends(tmp_path: Path) -> None:
    ina_rail(tmp_path, "1-0040", 1, "VDD_IN", 5000, 1000)
    meter = InaMeter(found(tmp_path)._rails, interval_s=0.001)  # type: ignore[union-attr]
    with meter:
        thread = meter._thread
        assert thread is not None
        until_s = time.monotonic() + 10
        while meter._joules == 0.0 and time.monotonic() < until_s:
            time.sleep(0.001)
        assert meter._joules > 0
    assert not thread.is_alive()


def test_a_sensor_that_goes_away_is_a_backend_error(tmp_path: Path) -> None:
    current = ina_rail(tmp_path, "1-0040", 1, "VDD_IN", 5000, 1000)
    rails = found(tmp_path)._rails  # type: ignore[union-attr]
    with InaMeter(rails, interval_s=1e6) as meter:
        current.unlink()
        with pytest.raises(BackendError, match="cannot be read"):
            meter.joules()


@given(st.text(max_size=30))
def test_a_counter_that_holds_anything_is_a_number_or_no_meter(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "odd"
    path = rapl_zone(root, "intel-rapl:0", "package-0", 0)
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    meter, note = find_meter(root)
    assert (meter is None) == ("does not hold a number" in note)


@pytest.mark.parametrize("content", ["9" * 5000, "\ufffd", "٣", "1e9", ""])
def test_a_number_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text(content, encoding="utf-8")
    assert find_meter(tmp_path)[0] is None


class Counter:
    """A meter of a clock: a joule for each second."""

    note = "counts"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def joules(self) -> float:
        return self.clock()


def test_energy_is_that_of_one_call() -> None:
    now_s = [0.0]
    calls: list[float] = []

    def call(seconds: float) -> None:
        calls.append(seconds)
        now_s[0] += seconds

    meter = Counter(lambda: now_s[0])
    work = [lambda: call(0.25), lambda: call(3.0)]
    assert joules_each(meter, work, seconds=4.0, clock=lambda: now_s[0]) == [0.25, 3.0]
    assert (calls.count(0.25), calls.count(3.0)) == (8, 1)
