"""What other programs may import from `edgeexit_runtime`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgeexit_runtime


def test_the_public_names_are_these() -> None:
    assert edgeexit_runtime.__all__ == [
        "Answer",
        "Answers",
        "Cascade",
        "FakeBackend",
        "FakeSegment",
        "SessionSettings",
        "__version__",
    ]


@pytest.mark.parametrize("name", edgeexit_runtime.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(edgeexit_runtime, name) is not None


def test_importing_the_runtime_imports_no_vendor_library() -> None:
    code = (
        "import sys, edgeexit_runtime; "
        "sys.exit(', '.join({'onnxruntime', 'onnx', 'torch', 'click', 'rich', 'PIL'} & set(sys.modules)) or None)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
