"""Heat and supply: what slows a device down without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeexit.targets import Target
from edgeexit_runtime.doctor.finding import Finding, ok, problem, warning
from edgeexit_runtime.doctor.host import Host

__all__ = ["check_heat"]

THROTTLED = ("sys/devices/platform/soc*/soc*firmware/get_throttled", "sys/devices/platform/soc*firmware/get_throttled")
NOW = {0: "the supply's voltage is too low", 1: "the clock is capped", 2: "throttled", 3: "at the temperature limit"}
BEFORE = 16
"""The same bits from here on say what happened since the start."""

HOT_C = 80.0
TRIPS = ("passive", "hot")
COOLING = "sys/class/thermal/cooling_device*"
BRAKES = ("cpufreq", "devfreq", "Processor", "cpu-", "gpu-", "thermal-cpufreq", "thermal-devfreq")
_HEX = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})")


def check_heat(host: Host, target: Target | None) -> Iterator[Finding]:
    """The supply, throttling and temperature."""
    bits = _throttled(host)
    if bits is not None:
        yield _supply(bits)
    elif (alarm := _low_voltage(host)) is not None:
        remedy = "use the board's own power supply"
        yield problem("supply", NOW[0], "enough", remedy) if alarm else ok("supply", "enough voltage", "enough")
    yield from _temperature(host)
    yield from _brakes(host)
    yield from _counted(host)


def _throttled(host: Host) -> int | None:
    """What a Raspberry Pi's firmware says."""
    texts = [host.text(path) for pattern in THROTTLED for path in host.paths(pattern)]
    if not any(texts) and (host.text("proc/device-tree/model") or "").startswith("Raspberry Pi"):
        texts.append(host.run(["vcgencmd", "get_throttled"]))
    for text in texts:
        match = _HEX.fullmatch((text or "").strip())
        if match:
            return int(match[1], 16)
    return None


def _supply(bits: int) -> Finding:
    now = [words for bit, words in NOW.items() if bits >> bit & 1]
    before = [words for bit, words in NOW.items() if bits >> bit + BEFORE & 1]
    remedy = "use the board's own power supply, and a cooler; then start anew"
    if now:
        return problem("throttling", f"now: {', '.join(now)}", "never", remedy)
    if before:
        return warning("throttling", f"since the start: {', '.join(before)}", "never", remedy)
    return ok("throttling", "not since the start", "never")


def _low_voltage(host: Host) -> int | None:
    for folder in host.paths("sys/class/hwmon/hwmon*"):
        if host.text(f"{folder}/name") == "rpi_volt":
            return host.number(f"{folder}/in0_lcrit_alarm")
    return None


def _temperature(host: Host) -> Iterator[Finding]:
    """The zone that is nearest to where it slows down."""
    nearest: tuple[float, str, float, float] | None = None
    for zone in host.paths("sys/class/thermal/thermal_zone*"):
        now = host.number(f"{zone}/temp")
        if now is None or not -40_000 < now < 200_000:
            continue
        limits = [
            host.number(kind.replace("_type", "_temp"))
            for kind in host.paths(f"{zone}/trip_point_*_type")
            if host.text(kind) in TRIPS
        ]
        limit = min((value for value in limits if value is not None and value > 0), default=1000 * HOT_C) / 1000
        found = (limit - now / 1000, host.text(f"{zone}/type") or zone, now / 1000, limit)
        nearest = found if nearest is None else min(nearest, found)
    if nearest is None:
        return
    margin, name, now_c, limit_c = nearest
    found_words, expected = f"{now_c:.0f} °C ({name})", f"below {limit_c:.0f} °C"
    if margin <= 0:
        yield warning("temperature", found_words, expected, "let it cool: a fan, a heat sink, less load")
    else:
        yield ok("temperature", found_words, expected)


def _brakes(host: Host) -> Iterator[Finding]:
    """Cooling devices that slow the processor or the GPU down; fans may turn."""
    active = []
    for device in host.paths(COOLING):
        kind = host.text(f"{device}/type") or ""
        if kind.startswith(BRAKES) and (host.number(f"{device}/cur_state") or 0) > 0:
            active.append(kind)
    if active:
        yield warning("cooling", f"slowed down by heat: {', '.join(active)}", "none", "a fan, or a lower power mode")


def _counted(host: Host) -> Iterator[Finding]:
    """What x86 processors count."""
    counts = [
        host.number(path) or 0
        for path in host.paths("sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count")
    ]
    if not counts:
        return
    if max(counts) > 0:
        yield warning("throttling", f"{max(counts)} times since the start", "never", "clean the fan, or better cooling")
    else:
        yield ok("throttling", "not since the start", "never")
