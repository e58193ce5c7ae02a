"""The precision of a bundle, and what follows for its tolerances."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from core.bundles import bundle_parts
from edgeexit.bundle.validate import check_manifest
from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest
from edgeexit.precision import TOLERANCES, precision_of, products_saturate, tolerance


def with_precisions(*precisions: str) -> Manifest:
    manifest, _ = bundle_parts(len(precisions))
    pairs = zip(manifest.segments, precisions, strict=True)
    return msgspec.structs.replace(
        manifest, segments=tuple(msgspec.structs.replace(segment, precision=p) for segment, p in pairs)
    )


def test_one_precision_of_all_segments_is_one_word() -> None:
    assert precision_of(with_precisions("fp16", "fp16", "fp16")) == "fp16"


def test_different_precisions_are_listed() -> None:
    assert precision_of(with_precisions("fp32", "int8")) == "fp32,int8"


@pytest.mark.parametrize("coarsest", TOLERANCES)
def test_the_coarsest_segment_sets_the_tolerance(coarsest: str) -> None:
    assert tolerance(with_precisions("fp32", coarsest, "fp32")) == TOLERANCES[coarsest]


def test_coarser_numbers_get_more_tolerance() -> None:
    assert TOLERANCES["fp32"] < TOLERANCES["fp16"] < TOLERANCES["int8"]


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, float("nan")])
def test_a_reference_accuracy_that_is_no_share_is_refused(accuracy: float) -> None:
    manifest, _ = bundle_parts(1)
    calibration = msgspec.structs.replace(manifest.calibration, reference_accuracy=accuracy)
    with pytest.raises(BundleError, match="outside 0 to 1"):
        check_manifest(msgspec.structs.replace(manifest, calibration=calibration))


@pytest.mark.parametrize(
    ("architecture", "flags", "saturate"),
    [
        ("x86_64", "fma avx2", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", "asimd", False),
    ],
)
def test_8_bit_products_saturate_without_vnni(
    tmp_path: Path, architecture: str, flags: str | None, saturate: bool
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    assert products_saturate(tmp_path / "cpuinfo", architecture) is saturate
