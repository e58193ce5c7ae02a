"""Made-up machines: trees of files as they lie on real ones, and processes on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeexit_runtime.doctor import Host, Process

LEAST = {"numpy": "1.24", "onnxruntime": "1.18", "click": "8.1"}
VERSIONS = {"numpy": "1.26.4", "onnxruntime": "1.20.1", "click": "8.1.7"}
GIB_KB = 1 << 20

MODES = """\
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""


def no_commands(words: Sequence[str]) -> str | None:
    """A machine that has none."""
    return None


def write_tree(root: Path, files: Mapping[str, object]) -> Path:
    """Write files by their paths from the root on."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root


def linux(
    cores: int, memory_gib: float, clock_khz: int, cpuinfo: str, governor: str = "performance"
) -> dict[str, object]:
    """What every Linux has."""
    total_kb = int(memory_gib * GIB_KB)
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    return {
        "sys/devices/system/cpu/online": f"0-{cores - 1}",
        "sys/devices/system/cpu/present": f"0-{cores - 1}",
        f"{policy}/scaling_governor": governor,
        f"{policy}/cpuinfo_max_freq": clock_khz,
        f"{policy}/scaling_max_freq": clock_khz,
        f"{policy}/scaling_cur_freq": clock_khz,
        "proc/cpuinfo": cpuinfo,
        "proc/meminfo": f"MemTotal: {total_kb} kB\nMemFree: 1 kB\nMemAvailable: {total_kb // 2} kB\n"
        "SwapTotal: 102396 kB\nSwapFree: 102396 kB",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48_312,
    }


def raspberry_pi_4() -> dict[str, object]:
    features = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    return {
        **linux(4, 7.6, 1_800_000, features),
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
    }


def raspberry_pi_5() -> dict[str, object]:
    features = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid lrcpc dcpop asimddp\n"
    return {
        **linux(4, 7.87, 2_400_000, features),
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "sys/class/hwmon/hwmon2/name": "rpi_volt",
        "sys/class/hwmon/hwmon2/in0_lcrit_alarm": 0,
    }


def jetson_orin_nano() -> dict[str, object]:
    features = "processor\t: 0\nFeatures\t: fp asimd aes fphp asimdhp asimddp\n"
    ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    return {
        **linux(6, 7.44, 1_728_000, features),
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "etc/nvpmodel.conf": MODES,
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1": "",
        "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
        "dev/nvhost-gpu": "",
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": 3,
        "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "sys/class/thermal/cooling_device1/cur_state": 0,
        f"{ina}/in1_label": "VDD_IN",
        f"{ina}/in1_input": 5000,
        f"{ina}/curr1_input": 1200,
    }


def pc(cores: int = 16, memory_gib: float = 64, flags: str = "sse4_2 avx avx2 fma avx512f") -> dict[str, object]:
    return {
        **linux(cores, memory_gib, 3_000_000, f"processor\t: 0\nmodel name\t: A processor\nflags\t\t: {flags}\n"),
        "proc/self/cgroup": "0::/user.slice/session.scope",
        "sys/fs/cgroup/user.slice/session.scope/memory.max": "max",
        "sys/fs/cgroup/user.slice/cpu.max": "max 100000",
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": 1_000_000,
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
    }


def process(architecture: str, cores: int, **changes: object) -> Process:
    """A process that may use so many cores, with all packages that EdgeExit asks for."""
    values = {
        "architecture": architecture,
        "bits": 64,
        "cores": cores,
        "python": "3.11.2",
        "versions": VERSIONS,
        "least": LEAST,
    }
    return Process(**{**values, **changes})  # type: ignore[arg-type]


def host(root: Path, files: Mapping[str, object], on: Process) -> Host:
    """A machine with these files, and no commands."""
    return Host(write_tree(root, files), on, no_commands)
