"""What lets a deployed cascade live: heads updated on the device, drift watched, the old state kept.

    from edgeexit_runtime.living import Generations, Updater, watch

Nothing of this is loaded to run a cascade.
"""

from __future__ import annotations

from edgeexit_runtime.living.generations import Generations
from edgeexit_runtime.living.updating import Update, Updater, update, updated_bundle
from edgeexit_runtime.living.watching import audit, watch

__all__ = ["Generations", "Update", "Updater", "audit", "update", "updated_bundle", "watch"]
