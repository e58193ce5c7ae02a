"""The doctor, on made-up machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import DeviceError, UsageError
from edgeexit_runtime.doctor import Finding, Host, Process, Report, examine
from edgeexit_runtime.doctor.examination import guess_target
from edgeexit_runtime.doctor.nvidia import jetpack_of
from edgeexit_runtime.doctor.versions import as_numbers, at_least, below
from runtime.cascades import COMMANDS, write_tiny
from runtime.machines import (
    GIB_KB,
    VERSIONS,
    host,
    jetson_orin_nano,
    pc,
    process,
    raspberry_pi_4,
    raspberry_pi_5,
    write_tree,
)

Cli = Callable[..., Any]
Files = dict[str, object]

ARM4, ARM6, X86 = process("aarch64", 4), process("aarch64", 6), process("x86_64", 16)
POLICY = "sys/devices/system/cpu/cpufreq/policy0"

MACHINES = {
    "raspberry-pi-4": (raspberry_pi_4, ARM4),
    "raspberry-pi-5": (raspberry_pi_5, ARM4),
    "jetson-orin-nano": (jetson_orin_nano, process("aarch64", 6, versions={**VERSIONS, "pycuda": "2025.1"})),
    "x86-64-server": (pc, X86),
}


def finding(report: Report, check: str) -> Finding:
    found = [finding for finding in report.findings if finding.check == check]
    assert len(found) == 1, [finding.check for finding in report.findings]
    return found[0]


def statuses(report: Report) -> set[tuple[str, str]]:
    """What is not ok."""
    return {(finding.check, finding.status) for finding in report.findings if finding.status != "ok"}


def pi_5(root: Path, on: Process = ARM4, **changes: object) -> Report:
    return examine(host(root, {**raspberry_pi_5(), **changes}, on), target="raspberry-pi-5")


def nano(root: Path, on: Process = ARM6, **changes: object) -> Report:
    return examine(host(root, {**jetson_orin_nano(), **changes}, on))


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_in_order_is_known_and_has_nothing_to_fix(tmp_path: Path, name: str) -> None:
    files, on = MACHINES[name]
    report = examine(host(tmp_path, files(), on))
    assert (report.target, report.guessed) == (name, True)
    assert statuses(report) == set()
    assert report.status == "ok"


def test_a_pc_with_a_battery_or_few_cores_is_a_laptop(tmp_path: Path) -> None:
    assert guess_target(host(tmp_path / "a", pc(cores=8), X86)) == "x86-64-laptop"
    battery = {**pc(), "sys/class/power_supply/BAT0/status": "Full"}
    assert guess_target(host(tmp_path / "b", battery, X86)) == "x86-64-laptop"


def test_a_board_that_is_not_known_gets_a_warning(tmp_path: Path) -> None:
    report = examine(host(tmp_path, {"proc/device-tree/model": "Banana Pi\0"}, ARM4))
    assert report.target is None
    assert finding(report, "target").found == "Banana Pi"
    assert report.status == "warning"


def test_another_board_than_the_targets_is_named(tmp_path: Path) -> None:
    report = examine(host(tmp_path, raspberry_pi_4(), ARM4), target="raspberry-pi-5")
    assert finding(report, "board").status == "warning"
    assert finding(report, "board").found == "Raspberry Pi 4 Model B Rev 1.5"
    assert finding(report, "clock").status == "warning"


def test_another_architecture_is_a_problem(tmp_path: Path) -> None:
    report = examine(host(tmp_path, pc(), X86), target="raspberry-pi-5")
    assert finding(report, "architecture").status == "problem"
    assert report.status == "problem"


def test_a_32_bit_system_is_a_problem(tmp_path: Path) -> None:
    report = pi_5(tmp_path, process("armv7l", 4, bits=32))
    assert finding(report, "architecture").status == "problem"
    assert "64-bit system" in str(finding(report, "architecture").remedy)


def test_cores_that_are_switched_off_are_missed(tmp_path: Path) -> None:
    report = pi_5(tmp_path, process("aarch64", 2), **{"sys/devices/system/cpu/online": "0,3"})
    assert statuses(report) == {("cores", "warning"), ("threads", "warning")}
    assert finding(report, "cores").found == "2"
    assert "cpu*/online" in str(finding(report, "cores").remedy)


def test_cores_that_the_process_may_not_use_are_missed(tmp_path: Path) -> None:
    report = pi_5(tmp_path, process("aarch64", 1))
    assert statuses(report) == {("affinity", "warning"), ("threads", "warning")}
    assert finding(report, "threads").remedy == "edgeexit … --threads 1"


def test_a_governor_that_follows_the_load_is_named_with_the_command(tmp_path: Path) -> None:
    report = pi_5(tmp_path, **{f"{POLICY}/scaling_governor": "ondemand"})
    assert statuses(report) == {("governor", "warning")}
    assert "sudo tee /sys/devices/system/cpu" in str(finding(report, "governor").remedy)


def test_a_jetsons_governor_is_fixed_by_its_own_command(tmp_path: Path) -> None:
    report = nano(tmp_path, **{f"{POLICY}/scaling_governor": "schedutil"})
    assert finding(report, "governor").remedy == "sudo jetson_clocks"


def test_a_capped_clock_is_named(tmp_path: Path) -> None:
    report = pi_5(tmp_path, **{f"{POLICY}/scaling_max_freq": 1_500_000, f"{POLICY}/scaling_cur_freq": 1_500_000})
    assert statuses(report) == {("clock", "warning")}
    assert finding(report, "clock").found == "1.50 GHz now, up to 1.50 GHz: capped"


def test_a_processor_without_vectors_is_warned_of(tmp_path: Path) -> None:
    report = examine(host(tmp_path, pc(flags="sse sse2"), X86))
    assert statuses(report) == {("instructions", "warning")}


def test_the_variant_with_less_memory_is_warned_of(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {2 * GIB_KB} kB\nMemAvailable: {GIB_KB} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB"
    assert statuses(pi_5(tmp_path, **{"proc/meminfo": meminfo})) == {("memory", "warning")}


def test_no_swap_on_a_device_with_little_memory_is_warned_of(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {GIB_KB} kB\nMemAvailable: {GIB_KB // 2} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB"
    assert ("swap", "warning") in statuses(pi_5(tmp_path, **{"proc/meminfo": meminfo}))


def test_swap_in_use_is_warned_of(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {8 * GIB_KB} kB\nMemAvailable: {GIB_KB} kB\nSwapTotal: 1000 kB\nSwapFree: 100 kB"
    assert statuses(pi_5(tmp_path, **{"proc/meminfo": meminfo})) == {("swap", "warning")}


def test_too_little_free_memory_is_a_problem(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {8 * GIB_KB} kB\nMemAvailable: 20000 kB\nSwapTotal: 1000 kB\nSwapFree: 1000 kB"
    assert statuses(pi_5(tmp_path, **{"proc/meminfo": meminfo})) == {("free memory", "problem")}


def test_the_limits_of_a_container_are_found_in_its_group_and_around_it(tmp_path: Path) -> None:
    limits = {
        "proc/self/cgroup": "0::/box/inner",
        "sys/fs/cgroup/box/inner/memory.max": "max",
        "sys/fs/cgroup/box/memory.max": 64 << 20,
        "sys/fs/cgroup/box/inner/cpu.max": "150000 100000",
    }
    report = pi_5(tmp_path, **limits)
    assert statuses(report) == {
        ("memory limit", "problem"),
        ("free memory", "problem"),
        ("processor limit", "warning"),
    }
    assert finding(report, "processor limit").found == "1.5 cores' worth of time"


def test_the_limits_of_the_first_version_of_groups_are_found(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 1 << 30,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 100_000,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000,
    }
    report = pi_5(tmp_path, **limits)
    assert finding(report, "memory limit").found == "1.0 GiB"
    assert statuses(report) == {("processor limit", "warning")}


@pytest.mark.parametrize("content", ["9223372036854771712", "max", "-1"])
def test_no_limit_is_no_finding(tmp_path: Path, content: str) -> None:
    limits = {"sys/fs/cgroup/memory/memory.limit_in_bytes": content, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}
    report = pi_5(tmp_path, **limits, **{"sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000})
    assert not {finding.check for finding in report.findings} & {"memory limit", "processor limit"}


@pytest.mark.parametrize(
    ("bits", "status", "words"),
    [
        ("0", "ok", "not since the start"),
        ("0x50000", "warning", "since the start: the supply's voltage is too low, throttled"),
        ("50005", "problem", "now: the supply's voltage is too low, throttled"),
        ("0x8", "problem", "now: at the temperature limit"),
    ],
)
def test_a_pis_firmware_tells_of_throttling(tmp_path: Path, bits: str, status: str, words: str) -> None:
    files = {**raspberry_pi_4(), "sys/devices/platform/soc/soc:firmware/get_throttled": bits}
    found = finding(examine(host(tmp_path, files, ARM4)), "throttling")
    assert (found.status, found.found) == (status, words)


def test_where_there_is_no_file_the_pis_own_command_is_asked(tmp_path: Path) -> None:
    asked = []

    def run(words: Any) -> str:
        asked.append(list(words))
        return "throttled=0x50000\n"

    machine = Host(write_tree(tmp_path, raspberry_pi_5()), ARM4, run)
    assert finding(examine(machine), "throttling").status == "warning"
    assert asked == [["vcgencmd", "get_throttled"]]


def test_other_boards_are_asked_nothing(tmp_path: Path) -> None:
    def run(words: Any) -> str:
        raise AssertionError(words)

    assert examine(Host(write_tree(tmp_path, jetson_orin_nano()), ARM6, run)).target == "jetson-orin-nano"


def test_low_voltage_is_a_problem(tmp_path: Path) -> None:
    report = pi_5(tmp_path, **{"sys/class/hwmon/hwmon2/in0_lcrit_alarm": 1})
    assert statuses(report) == {("supply", "problem")}


def test_the_zone_nearest_to_its_limit_is_named(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone1"
    files = {
        f"{zone}/type": "tj-thermal",
        f"{zone}/temp": 99_500,
        f"{zone}/trip_point_0_type": "active",
        f"{zone}/trip_point_0_temp": 50_000,
        f"{zone}/trip_point_1_type": "passive",
        f"{zone}/trip_point_1_temp": 99_000,
    }
    found = finding(pi_5(tmp_path, **files), "temperature")
    assert (found.status, found.found, found.expected) == ("warning", "100 °C (tj-thermal)", "below 99 °C")


def test_a_clock_that_heat_slows_down_is_named_and_a_fan_is_not(tmp_path: Path) -> None:
    report = nano(tmp_path, **{"sys/class/thermal/cooling_device1/cur_state": 2})
    assert finding(report, "cooling").found == "slowed down by heat: cpufreq-cpu0"


def test_throttling_that_an_x86_counted_is_warned_of(tmp_path: Path) -> None:
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    assert statuses(examine(host(tmp_path, {**pc(), count: 7}, X86))) == {("throttling", "warning")}


def test_a_slower_power_mode_is_named_with_the_command_for_the_fastest(tmp_path: Path) -> None:
    found = finding(nano(tmp_path, **{"var/lib/nvpmodel/status": "pmode:0003 fmode:quiet"}), "power mode")
    assert (found.status, found.found, found.remedy) == ("warning", "7W: 4 cores", "sudo nvpmodel -m 2")


def test_modes_are_the_same_with_and_without_the_word_before(tmp_path: Path) -> None:
    files = {
        **jetson_orin_nano(),
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
        "var/lib/nvpmodel/status": "pmode:0002",
    }
    found = finding(examine(host(tmp_path, files, process("aarch64", 8))), "power mode")
    assert (found.found, found.expected, found.remedy) == (
        "MODE_30W: 8 cores",
        "MAXN, the fastest",
        "sudo nvpmodel -m 0",
    )


@pytest.mark.parametrize(
    ("release", "status", "words"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "ok", "Jetson Linux 36.4.3, JetPack 6.2"),
        ("# R39 (release), REVISION: 2.1, GCID: 1", "ok", "Jetson Linux 39.2.1, JetPack 7.2"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "warning", "Jetson Linux 35.4.1, JetPack 5"),
        ("# R77 (release), REVISION: 1.0, GCID: 1", "warning", "Jetson Linux 77.1.0"),
        ("nonsense", "warning", "/etc/nv_tegra_release does not tell"),
    ],
)
def test_the_release_is_held_against_the_targets_jetpack(tmp_path: Path, release: str, status: str, words: str) -> None:
    found = finding(nano(tmp_path, **{"etc/nv_tegra_release": release}), "JetPack")
    assert (found.status, found.found) == (status, words)


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [("36.3.0", "6.0"), ("36.4.0", "6.1"), ("36.4.4", "6.2.1"), ("36.5.0", "6.2.1"), ("38.2.0", "7.0"), ("32.7", None)],
)
def test_jetpack_follows_from_the_release(release: str, jetpack: str | None) -> None:
    assert jetpack_of(release) == jetpack


def test_tensorrt_without_a_driver_is_warned_of(tmp_path: Path) -> None:
    files = {path: content for path, content in jetson_orin_nano().items() if "libcuda" not in path}
    report = examine(host(tmp_path, files, ARM6))
    assert finding(report, "NVIDIA driver").status == "warning"
    assert "without a driver TensorRT ends the process" in str(finding(report, "TensorRT").remedy)


def test_a_tensorrt_out_of_range_is_warned_of(tmp_path: Path) -> None:
    report = nano(tmp_path, process("aarch64", 6, versions={**VERSIONS, "tensorrt": "11.0.0"}))
    assert (finding(report, "TensorRT").status, finding(report, "TensorRT").found) == ("warning", "11.0.0")


def test_a_jetson_without_tensorrt_gets_the_command_to_install_it(tmp_path: Path) -> None:
    files = {path: content for path, content in jetson_orin_nano().items() if "libnvinfer" not in path}
    assert "sudo apt install" in str(finding(examine(host(tmp_path, files, ARM6)), "TensorRT").remedy)


def test_a_pcs_driver_is_told_by_its_version(tmp_path: Path) -> None:
    files = {
        **pc(),
        "usr/lib/x86_64-linux-gnu/libcuda.so.1": "",
        "dev/nvidiactl": "",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu",
    }
    assert finding(examine(host(tmp_path, files, X86)), "NVIDIA driver").found == "570.86.15"


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"python": "3.9.2"}, "Python", "problem"),
        ({"python": "3.17.0"}, "Python", "warning"),
        ({"versions": {**VERSIONS, "numpy": "1.21.5"}}, "numpy", "problem"),
        ({"versions": {"numpy": "2.0", "click": "8.1"}}, "onnxruntime", "problem"),
        ({"versions": {**VERSIONS, "onnxruntime": "1.17.3"}}, "onnxruntime", "problem"),
        ({"versions": {**VERSIONS, "onnxruntime-gpu": "1.20.1"}}, "onnxruntime", "warning"),
    ],
)
def test_versions_are_held_against_what_edgeexit_asks_for(
    tmp_path: Path, changes: Mapping[str, object], check: str, status: str
) -> None:
    report = pi_5(tmp_path, process("aarch64", 4, **changes))
    assert finding(report, check).status == status
    assert statuses(report) == {(check, status)}


def test_a_gpu_build_of_onnxruntime_is_as_good(tmp_path: Path) -> None:
    versions = {"numpy": "2.0", "click": "8.1", "onnxruntime-gpu": "1.20.1"}
    assert statuses(pi_5(tmp_path, process("aarch64", 4, versions=versions))) == set()


def test_what_edgeexit_asks_for_is_what_its_packages_say() -> None:
    here = Process.here()
    assert here.least["onnxruntime"] == "1.18"
    assert here.least["numpy"] == "1.24"
    assert "jinja2" not in here.least
    assert here.versions["numpy"]


def test_energy_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    files = pc()
    root = write_tree(tmp_path, files)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.unlink()
    counter.mkdir()
    assert "cannot be read" in finding(examine(Host(root, X86, lambda words: None)), "energy").found


def test_a_bundle_is_looked_at_too(tmp_path: Path) -> None:
    machine = host(tmp_path / "root", raspberry_pi_5(), ARM4)
    report = examine(machine, bundle=write_tiny(tmp_path / "tiny"))
    assert statuses(report) == set()
    assert finding(report, "bundle").found.startswith("3 segments, ")
    assert finding(report, "precision").found == "fp32"


def test_a_precision_that_the_target_does_not_like_is_warned_of(tmp_path: Path) -> None:
    machine = host(tmp_path / "root", jetson_orin_nano(), MACHINES["jetson-orin-nano"][1])
    report = examine(machine, bundle=write_tiny(tmp_path / "tiny"))
    assert statuses(report) == {("precision", "warning")}
    assert finding(report, "precision").remedy == "edgeexit export … --precision fp16"


def test_a_damaged_bundle_is_a_problem(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny")
    (path / "segments" / "01.onnx").write_bytes(b"")
    report = examine(host(tmp_path / "root", raspberry_pi_5(), ARM4), bundle=path)
    assert statuses(report) == {("bundle", "problem")}


def test_a_bundle_that_memory_does_not_hold_is_a_problem(tmp_path: Path) -> None:
    meminfo = f"MemTotal: {8 * GIB_KB} kB\nMemAvailable: 50000 kB\nSwapTotal: 1000 kB\nSwapFree: 1000 kB"
    machine = host(tmp_path / "root", {**raspberry_pi_5(), "proc/meminfo": meminfo}, ARM4)
    report = examine(machine, bundle=write_tiny(tmp_path / "tiny"))
    assert ("memory for it", "problem") in statuses(report)


def test_an_unknown_target_is_a_usage_error_and_a_malformed_one_a_device_error(tmp_path: Path) -> None:
    machine = host(tmp_path, pc(), X86)
    with pytest.raises(UsageError):
        examine(machine, target="abacus")
    (tmp_path / "board.toml").write_text("name = 1")
    with pytest.raises(DeviceError):
        examine(machine, target=tmp_path / "board.toml")


NUMBERISH = st.one_of(st.integers().map(str), st.text(max_size=12), st.just("9" * 5000))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_files_that_hold_anything_never_end_the_examination(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files: Files = data.draw(st.sampled_from([raspberry_pi_4, raspberry_pi_5, jetson_orin_nano, pc]))()
    path = data.draw(st.sampled_from(sorted(files)))
    root = write_tree(tmp_path_factory.getbasetemp() / "odd", files)
    (root / path).write_bytes(data.draw(NUMBERISH).encode("utf-8", "surrogatepass"))
    assert examine(Host(root, ARM4, lambda words: data.draw(NUMBERISH))).findings


def test_an_empty_machine_is_examined(tmp_path: Path) -> None:
    assert examine(host(tmp_path, {}, ARM4)).status == "warning"


@pytest.mark.parametrize(
    ("version", "numbers"), [("1.20.1rc1", (1, 20, 1)), ("10.3.0", (10, 3)), ("abc", ()), ("9" * 5000, (999999999,))]
)
def test_versions_are_compared_by_their_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert as_numbers(version) == numbers


def test_ten_is_more_than_nine_and_zeros_at_the_end_are_nothing() -> None:
    assert at_least("1.10", "1.9")
    assert at_least("11", "11.0.0")
    assert below("1.9.9", "1.10")


def test_the_command_prints_one_document_and_ends_with_6_at_a_problem(cli: Cli) -> None:
    import platform

    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "x86-64-server"
    outcome = cli("doctor", "--target", other, "--json", commands=COMMANDS)
    document = json.loads(outcome.stdout)
    assert outcome.code == 6
    assert (document["status"], document["target"], document["guessed"]) == ("problem", other, False)
    assert {tuple(entry) for entry in document["findings"]} == {("check", "status", "found", "expected", "remedy")}


def test_the_command_shows_what_is_wrong_and_what_to_do(cli: Cli) -> None:
    import platform

    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "x86-64-server"
    stdout = cli("doctor", "--target", other, commands=COMMANDS).stdout
    assert "PROBLEM" in stdout
    assert "architecture: name this device's own target: --target" in stdout


def test_the_command_refuses_a_target_file_with_a_wrong_unit(cli: Cli, tmp_path: Path) -> None:
    pi = (Path(__file__).parents[2] / "targets" / "raspberry-pi-5.toml").read_text()
    (tmp_path / "board.toml").write_text(pi.replace('unit = "GiB"', 'unit = "GB"'))
    outcome = cli("doctor", "--target", tmp_path / "board.toml", "--json", commands=COMMANDS)
    assert (outcome.code, outcome.stdout) == (6, "")
