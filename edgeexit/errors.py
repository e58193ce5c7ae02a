"""Every error that EdgeExit raises on purpose.

    EdgeExitError
    ├── UsageError          exit code 2   wrong flag, unknown name, file that cannot be written
    ├── BundleError         exit code 3   bundle invalid, tampered with, or from a newer version
    ├── DataError           exit code 4   data or model file that cannot be used
    │   └── ModelError                    a model that cannot be loaded, cut or split
    ├── UnreachableError    exit code 5   a budget or accuracy that no thresholds reach
    └── BackendError        exit code 6   a backend, device or package that is not there
        ├── DeviceError                   a profile or target file that cannot be used, a device that is not as it says
        └── MissingPartError              names the package to install

Each message says what came, what was expected and what to do. Exceptions of other
libraries are translated where they enter, so a caller needs to catch `EdgeExitError` alone.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "DataError",
    "DeviceError",
    "EdgeExitError",
    "MissingPartError",
    "ModelError",
    "UnreachableError",
    "UsageError",
]


class EdgeExitError(Exception):
    """Base of the tree.

    Args:
        problem: What is wrong, one sentence without a full stop.
        got: What was received.
        expected: What would have been accepted.
        remedy: What the user can do.
    """

    exit_code = 1

    def __init__(self, problem: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.got = got
        self.expected = expected
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        details = [("got", self.got), ("expected", self.expected), ("try", self.remedy)]
        return "\n".join([self.problem, *(f"  {word}: {value}" for word, value in details if value is not None)])


class UsageError(EdgeExitError):
    """The request itself cannot be carried out."""

    exit_code = 2


class BundleError(EdgeExitError):
    """A bundle is incomplete, altered, malformed, or newer than this software."""

    exit_code = 3


class DataError(EdgeExitError):
    """Data that cannot be used; the message names the file."""

    exit_code = 4


class ModelError(DataError):
    """A model that cannot be loaded, analysed or split."""


class UnreachableError(EdgeExitError):
    """A stated budget or accuracy is out of reach; the message says what is reachable."""

    exit_code = 5


class BackendError(EdgeExitError):
    """A backend or device is missing or failed."""

    exit_code = 6


class DeviceError(BackendError):
    """A profile or target file is damaged or of something else, or a device is not as one says."""


class MissingPartError(BackendError):
    """A package of EdgeExit, or one that it needs for this job, is not installed."""

    @classmethod
    def package(cls, job: str, package: str) -> MissingPartError:
        """Say that `job` needs `package`, as it is written after `pip install`."""
        return cls(f"{job} needs the package {package}, which is not installed", remedy=f"pip install '{package}'")
