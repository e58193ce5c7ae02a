"""What other programs may import from `edgeexit`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgeexit


def test_the_public_names_are_these() -> None:
    assert edgeexit.__all__ == [
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


@pytest.mark.parametrize("name", edgeexit.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(edgeexit, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        edgeexit.nonsense  # noqa: B018  (the access is the test)


def test_public_names_can_be_listed() -> None:
    assert set(edgeexit.__all__) <= set(dir(edgeexit))


def test_importing_edgeexit_imports_no_other_package() -> None:
    code = "import sys, edgeexit; sys.exit(', '.join({'msgspec', 'numpy', 'PIL', 'click'} & set(sys.modules)) or None)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
