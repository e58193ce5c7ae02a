"""`edgeexit verify`: golden samples, and bundles that were altered and signed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.bundles import rewrite_file, rewrite_manifest
from edgeexit.bundle import CHECK_FILE, EXITS_FILE, Bundle
from edgeexit.errors import BundleError
from edgeexit.replay import judge, replay
from edgeexit.tensors import load_tensors, save_tensors
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import Verification, verify
from runtime.cascades import COMMANDS, EXITS, GOLDEN, tiny_policy, write_pair, write_tiny

Cli = Callable[..., Any]
Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


def alter(bundle: Path, change: Callable[[Tensors], None], file: str = CHECK_FILE) -> None:
    """Change tensors of a file, and make all hashes match again."""
    tensors = {name: array.copy() for name, array in load_tensors((bundle / file).read_bytes(), file).items()}
    change(tensors)
    rewrite_file(bundle, file, save_tensors(tensors))


def verified(path: Path) -> Verification:
    bundle = Bundle.open(path)
    return verify(bundle, Cascade.open(bundle))


def test_a_bundle_as_it_was_written_verifies(bundle: Path) -> None:
    result = verified(bundle)
    assert (result.samples, result.exits, result.near_threshold) == (GOLDEN, EXITS, 0)
    assert result.largest_difference < 1e-5


@pytest.mark.parametrize("k", range(EXITS))
def test_an_altered_logit_is_refused_by_exit_and_sample(bundle: Path, k: int) -> None:
    def change(tensors: Tensors) -> None:
        order = np.argsort(tensors[f"logits.{k}"][5])
        tensors[f"logits.{k}"][5, order[0]] -= 0.5  # the least class: exit and label stay as they are

    alter(bundle, change)
    with pytest.raises(
        BundleError, match=rf"exit {k} \(.*golden sample 5, at batch 1|golden sample 5 has another prob"
    ):
        verified(bundle)


def test_an_altered_input_is_refused(bundle: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["input.x"][7] += 1

    alter(bundle, change)
    with pytest.raises(BundleError, match="other logits here than on the workstation for golden sample 7"):
        verified(bundle)


def test_an_altered_label_is_refused(bundle: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["labels"][3] = (tensors["labels"][3] + 1) % 3

    alter(bundle, change)
    with pytest.raises(BundleError, match="golden sample 3 is not answered"):
        verified(bundle)


def test_an_altered_exit_is_refused(bundle: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["exits"][2] = (tensors["exits"][2] + 1) % EXITS

    alter(bundle, change)
    with pytest.raises(BundleError, match="golden sample 2 is not answered"):
        verified(bundle)


def test_an_altered_probability_is_refused(bundle: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["probabilities"][1] *= 0.9

    alter(bundle, change)
    with pytest.raises(BundleError, match="golden sample 1 has another probability"):
        verified(bundle)


def test_altered_class_weights_are_refused(bundle: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["exit.1.bias"] += np.array([0.1, 0, 0], np.float32)

    alter(bundle, change, EXITS_FILE)
    with pytest.raises(BundleError, match=r"exit 1 \(exit1\) gives other logits"):
        verified(bundle)


def test_other_thresholds_are_refused(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda document: document["exits"][0].update(threshold=0.3))
    with pytest.raises(BundleError, match="as its own logits say"):
        verified(bundle)


def test_a_sample_at_the_threshold_may_leave_on_either_side(bundle: Path) -> None:
    golden = Bundle.open(bundle).check
    sample = int(np.flatnonzero(golden["exits"] == 0)[0])
    score = float(golden["probabilities"][sample])
    later = 1
    rewrite_manifest(bundle, lambda document: document["exits"][0].update(threshold=score - 1e-5))

    def change(tensors: Tensors) -> None:
        policy = tiny_policy().with_thresholds((score - 1e-5, *tiny_policy().thresholds[1:]))
        logits = [tensors[f"logits.{k}"] for k in range(EXITS)]
        answers = replay(policy, logits)
        tensors["labels"][:], tensors["exits"][:] = answers.label, answers.exit
        tensors["probabilities"][:] = answers.probability
        beyond = judge(policy, logits)
        tensors["exits"][sample], tensors["labels"][sample] = later, beyond.label[later, sample]
        tensors["probabilities"][sample] = beyond.probability[later, sample]

    alter(bundle, change)
    assert verified(bundle).near_threshold == 1


def test_a_cascade_of_models_verifies(tmp_path: Path) -> None:
    assert verified(write_pair(tmp_path / "pair")).exits == 2


def test_the_document_says_what_was_replayed(cli: Cli, bundle: Path) -> None:
    document = cli("verify", bundle, "--json", commands=COMMANDS).document()
    assert list(document) == ["bundle", "files", "samples", "exits", "largest_difference", "near_threshold"]
    assert (document["files"], document["samples"], document["exits"]) == (6, GOLDEN, EXITS)


def test_prose_says_that_all_is_well(cli: Cli, bundle: Path) -> None:
    outcome = cli("verify", bundle, commands=COMMANDS)
    assert (outcome.code, "16 golden samples give the same answers" in outcome.stdout) == (0, True)


def test_a_failure_ends_with_exit_code_3_and_prints_no_document(cli: Cli, bundle: Path) -> None:
    alter(bundle, lambda tensors: tensors["input.x"].__iadd__(1))
    outcome = cli("verify", bundle, "--json", commands=COMMANDS)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert "golden sample 0" in outcome.stderr


def test_a_flipped_byte_ends_with_exit_code_3(cli: Cli, bundle: Path) -> None:
    path = bundle / "segments" / "01.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    outcome = cli("verify", bundle, commands=COMMANDS)
    assert (outcome.code, "segments/01.onnx" in outcome.stderr) == (3, True)
