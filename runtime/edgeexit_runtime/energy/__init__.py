"""Energy: read from the device where the device tells it.

    meter, note = find_meter()
    if meter is not None:
        with meter:
            before_j = meter.joules()
            ...
            spent_j = meter.joules() - before_j

Processors of Intel and AMD count joules (RAPL). A Jetson has INA3221 sensors that tell volts and amperes at the
moment; power is then integrated over samples that a thread takes. Both measure the whole processor or board,
idle parts and other programs included. A Raspberry Pi measures neither.
"""

from __future__ import annotations

from edgeexit_runtime.energy.finding import find_meter
from edgeexit_runtime.energy.ina import InaMeter, Rail
from edgeexit_runtime.energy.meter import Meter, joules_each
from edgeexit_runtime.energy.rapl import RaplMeter

__all__ = ["InaMeter", "Meter", "Rail", "RaplMeter", "find_meter", "joules_each"]
