"""A pytest plugin for an environment without the packages of a workstation.

A test or a module of tests that asks for a package of the workstation is skipped, whatever the file is called, so
new tests need no list. Only an import that fails in the tests themselves or in their helpers counts: where our own
packages ask for one of these, the error is theirs and stays one.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

WORKSTATION = frozenset({"edgeexit_exporters", "onnxscript", "safetensors", "sklearn", "torch", "transformers"})
TESTS = Path(__file__).parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, object]:
    """Turn the failed import of a test module into a skip."""
    report = yield
    call = getattr(report, "call", None)
    error = None if call is None or call.excinfo is None else call.excinfo.value.__cause__
    wanted = _wanted(error)
    if report.failed and wanted is not None:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, f"needs {wanted}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a failed import in a fixture into a skip."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a failed import in a test into a skip."""
    return (yield from _skipping())


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        wanted = _wanted(error)
        if wanted is None:
            raise
        pytest.skip(f"needs {wanted}")


def _wanted(error: BaseException | None) -> str | None:
    """The package of the workstation that a file of the tests asked for in vain."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    asking = [path for path in frames if "importlib" not in str(path)]
    from_tests = bool(asking) and asking[-1].is_relative_to(TESTS)
    return package if package in WORKSTATION and from_tests else None
