"""Models and data on disk, made once, and bundles exported from them, each once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from edgeexit.cli import main
from integration.material import ENDINGS, NORMALISE, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets and models; tests only read it."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def exported(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`exported("plain.onnx", "--exits", "2")`: the bundle of that command, on the world's pictures by default."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def export(*arguments: str, kind: str = "pictures", suffix: str = "", calibrated: bool = True) -> Path:
        bundle = folder / f"{len(list(folder.iterdir()))}{suffix}"
        ending = ENDINGS[kind]
        sources = [str(world / word) if word.endswith(".onnx") else word for word in arguments]
        data = ["--data", str(world / f"train{ending}"), "--quiet", "--threads", "1", "-o", str(bundle)]
        data += ["--calibration", str(world / f"calibration{ending}")] if calibrated else []
        data += NORMALISE if "pictures" in kind else []
        assert main(["export", *sources, *data]) == 0
        return bundle

    return export
