"""EdgeExit: classifiers that stop as soon as they are sure.

The names below are what other programs may rely on. They are imported on first use, so that
`import edgeexit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeexit.bundle import Bundle, write_bundle
    from edgeexit.data import Dataset, Survey, open_data, survey
    from edgeexit.errors import (
        BackendError,
        BundleError,
        DataError,
        DeviceError,
        EdgeExitError,
        MissingPartError,
        ModelError,
        UnreachableError,
        UsageError,
    )
    from edgeexit.manifest import Manifest
    from edgeexit.policies import POLICIES, Policy, load_policy
    from edgeexit.targets import Target, load_target, target_names

__version__ = "0.1.0"

__all__ = [
    "POLICIES",
    "BackendError",
    "Bundle",
    "BundleError",
    "DataError",
    "Dataset",
    "DeviceError",
    "EdgeExitError",
    "Manifest",
    "MissingPartError",
    "ModelError",
    "Policy",
    "Survey",
    "Target",
    "UnreachableError",
    "UsageError",
    "__version__",
    "load_policy",
    "load_target",
    "open_data",
    "survey",
    "target_names",
    "write_bundle",
]

_MODULES = {
    "edgeexit.bundle": ("Bundle", "write_bundle"),
    "edgeexit.data": ("Dataset", "Survey", "open_data", "survey"),
    "edgeexit.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "edgeexit.manifest": ("Manifest",),
    "edgeexit.policies": ("POLICIES", "Policy", "load_policy"),
    "edgeexit.targets": ("Target", "load_target", "target_names"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgeexit' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
