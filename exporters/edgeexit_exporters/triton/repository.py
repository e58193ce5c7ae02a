"""A model repository: a folder for each tail, which appears as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx

from edgeexit.bundle import Bundle
from edgeexit.bundle.staging import replace, staging_folder
from edgeexit.errors import ModelError, UsageError
from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.payload import packed_specs
from edgeexit.profiles import identity
from edgeexit.tails import boundary, model_name, tail_name
from edgeexit_exporters.triton.checking import check_tail, golden_boundaries
from edgeexit_exporters.triton.config import HEADER, Serving, config_pbtxt
from edgeexit_exporters.triton.merging import LOGITS, merged_tail

__all__ = ["CONFIG_FILE", "MODEL_FILE", "check_repository", "write_repository"]

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "1/model.onnx"


def write_repository(
    bundle: Bundle,
    folder: str | Path,
    serving: Serving | None = None,
    *,
    tails: Sequence[int] | None = None,
) -> tuple[Path, ...]:
    """Write tails of a bundle into a Triton model repository.

    Each is run on the golden samples first. Other models of the repository stay; a tail that EdgeExit wrote there
    before is replaced.

    Args:
        bundle: The bundle.
        folder: The repository; made if it is not there.
        serving: How Triton runs the tails.
        tails: Their first segments; all when None.

    Returns:
        The models' folders.

    Raises:
        UsageError: There is no such tail, or a folder cannot be written or holds something else.
        BundleError, ModelError: A tail cannot be merged, or Triton would not take it.
    """
    manifest, serving = bundle.manifest, serving or Serving()
    chosen = range(len(manifest.segments)) if tails is None else sorted(set(tails))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < len(manifest.segments):
        raise UsageError("there is no such tail", got=list(chosen), expected=f"0 to {len(manifest.segments) - 1}")
    repository = check_repository(folder, manifest)
    files = {}
    for k, arrays in enumerate(golden_boundaries(bundle)):
        if k in chosen:
            graph = merged_tail(bundle, k, serving.payload)
            name, inputs = tail_name(model_name(manifest), k), _inputs(manifest, k, serving.payload)
            text = config_pbtxt(name, inputs, _output(manifest, k), serving, bundle=identity(manifest))
            files[repository / name] = {CONFIG_FILE: text.encode(), MODEL_FILE: _serialised(graph, k)}
            check_tail(bundle, k, graph, arrays, serving.payload)
    try:
        repository.mkdir(exist_ok=True)
        for model, contents in files.items():
            _write(model, contents)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return tuple(files)


def check_repository(folder: str | Path, manifest: Manifest | None = None) -> Path:
    """Find out early whether `write_repository` may write here.

    Args:
        folder: The repository.
        manifest: Of the bundle, when there is one already.

    Returns:
        The folder, symbolic links resolved.

    Raises:
        UsageError: It may not.
    """
    try:
        repository = Path(os.path.realpath(folder))
        if not repository.parent.is_dir() or (os.path.lexists(repository) and not repository.is_dir()):
            raise UsageError(
                f"{folder} cannot be a model repository",
                expected="a folder, or a name for one in a folder that is there",
            )
        names = [] if manifest is None else [tail_name(model_name(manifest), k) for k in range(len(manifest.segments))]
        for model in (repository / name for name in names):
            if os.path.lexists(model) and not _is_ours(model):
                raise UsageError(
                    f"{model} exists and was not written by EdgeExit, so it is not replaced",
                    remedy="choose another folder, or remove it first",
                )
    except OSError as error:
        raise _unwritable(folder, error) from error
    except ValueError as error:
        raise UsageError("the repository's path cannot be a path", got=repr(folder)) from error
    return repository


def _serialised(graph: onnx.ModelProto, k: int) -> bytes:
    try:
        onnx.checker.check_model(graph)
        data: bytes = graph.SerializeToString(deterministic=True)
    except Exception as error:  # of onnx, of protobuf, or ValueError beyond 2 GiB
        raise ModelError(f"the tail from segment {k} makes no ONNX graph", got=str(error)[:300]) from error
    return data


def _inputs(manifest: Manifest, k: int, precision: str) -> list[TensorSpec]:
    """What a tail takes; the model's own inputs are never rounded."""
    return [part for spec in boundary(manifest, k) for part in packed_specs(spec, precision if k else "fp32")]


def _output(manifest: Manifest, k: int) -> TensorSpec:
    return TensorSpec(name=LOGITS, dtype="float32", shape=(len(manifest.segments) - k, len(manifest.labels)))


def _write(model: Path, files: dict[str, bytes]) -> None:
    """A model's folder, made beside the repository: Triton may be watching what is in it."""
    with staging_folder(model.parent.with_name(f"{model.parent.name}.{model.name}")) as staging:
        new = staging / "new"
        for path, data in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            with (new / path).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        replace(new, model)


def _is_ours(model: Path) -> bool:
    config = model / CONFIG_FILE
    if not config.is_file():
        return False
    with config.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def _unwritable(folder: str | Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder} cannot be written", got=error.strerror, remedy="check the folder's permissions and space"
    )
