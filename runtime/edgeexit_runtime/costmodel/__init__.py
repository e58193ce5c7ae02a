"""The cost model: how a batch is cut up, and when compaction pays. It decides about speed, never about results.

A *step* is a segment with everything around it: its check, the policy's decision, and what Python does. What
a step costs for m rows is known from a profile (`MeasuredCosts`), or learned while the cascade works
(`ObservedCosts`). On a CPU with one thread a row often costs least when it is alone, because all that belongs
to it stays in the cache; on an accelerator, and with several threads, large batches are cheaper.
"""

from __future__ import annotations

from edgeexit_runtime.costmodel.base import CostModel, WholeBatches
from edgeexit_runtime.costmodel.observed import ObservedCosts

__all__ = ["CostModel", "ObservedCosts", "WholeBatches"]
