"""The device's side of the tiers: what is run here, what is handed on, and what is said when nobody answers.

device      the tier, as a program uses it
computing   the thread that runs segments
relay       answers on their way to whoever takes them
ledger      every sample, and when its answer is due
passage     samples through the segments here
finishing   the later segments, here after all
pace        which is quicker: to hand on, or to finish here
replies     what a sample's answer says
spooling    samples that were not delivered, kept for later
"""

from __future__ import annotations

from edgeexit_runtime.tier.device import Tier, TierAnswer

__all__ = ["Tier", "TierAnswer"]
