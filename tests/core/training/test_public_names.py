"""What other programs may import from `edgeexit.training`."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="training needs torch: pip install edgeexit[train]")

import edgeexit.training
from edgeexit.training.clustering import __all__ as clustering
from edgeexit.training.search import __all__ as search


def test_the_public_names_are_these() -> None:
    assert edgeexit.training.__all__ == [
        "ExitOutcome",
        "Feed",
        "HeadSpec",
        "MultiExit",
        "TrainSettings",
        "TrainingResult",
        "load_run",
        "restore",
        "save_run",
        "train",
        "train_heads",
    ]


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(edgeexit.training, name) is not None for name in edgeexit.training.__all__)


def test_search_and_clustering_have_names_of_their_own() -> None:
    assert {"SearchSettings", "search_heads"} <= set(search)
    assert {"DeepClustering", "cluster", "pretrain"} <= set(clustering)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        edgeexit.training.nonsense  # noqa: B018  (the access is the test)


def test_without_torch_training_names_what_to_install() -> None:
    code = """
import sys
sys.modules["torch"] = None
import edgeexit.training
from edgeexit.errors import MissingPartError
try:
    edgeexit.training.MultiExit
except MissingPartError as error:
    sys.exit(0 if "edgeexit[train]" in str(error) else "another error")
sys.exit("no error")
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
