"""The doctor: is this machine what its target says, and what should be done about it?

It reads files and nothing else: no library of a vendor is loaded, since some crash without their driver.
"""

from __future__ import annotations

from edgeexit_runtime.doctor.examination import Report, examine
from edgeexit_runtime.doctor.finding import Finding, Status
from edgeexit_runtime.doctor.host import Host, Process

__all__ = ["Finding", "Host", "Process", "Report", "Status", "examine"]
