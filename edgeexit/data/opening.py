"""Opening: from a path and what the model wants to a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.arrays import read_labels, read_samples
from edgeexit.data.dataset import Dataset, Source
from edgeexit.data.folders import class_folders, pictures_below
from edgeexit.data.joined import Joined
from edgeexit.data.pictures import Pictures
from edgeexit.data.survey import refuse_other_paths
from edgeexit.errors import DataError
from edgeexit.manifest import Preprocessing, TensorSpec

__all__ = ["open_data", "open_files"]


def open_data(
    path: str | Path,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Open labelled data: a folder with one subfolder per class, or an `.npz`.

    Pictures are listed now and decoded when they are read; arrays are checked whole now. Without
    `class_names` the classes are the subfolders in sorted order, or "0" to the largest label.

    Args:
        path: An image folder; or an archive with `x` and `y`, or with `y` and one array per input.
        inputs: What the model takes; shapes without the batch axis.
        preprocessing: How pictures are decoded.
        class_names: The classes in the order of the model's logits.

    Raises:
        DataError: The data cannot be used; the message names the file. See `Dataset.batches` for
            what is found only when pictures are decoded.
    """
    path = Path(path)
    refuse_other_paths(path)
    if path.is_dir():
        dataset = _open_folder(path, inputs, preprocessing, class_names)
    else:
        arrays = read_samples(path, inputs)
        labels, names = read_labels(path, len(arrays), class_names)
        dataset = _whole(arrays, labels, names, _numbered(path, len(arrays)))
    _refuse_one_class(path, dataset)
    return dataset


def open_files(paths: Sequence[str | Path], inputs: Sequence[TensorSpec], preprocessing: Preprocessing) -> Dataset:
    """Open unlabelled data: any number of pictures, folders of pictures and archives, in this order.

    Folders are searched with all their subfolders, in sorted order. Labels in an archive are left
    out. Samples are named by the path as it was given, and what follows it.

    Raises:
        DataError: As `open_data`; also when there are no paths.
    """
    sources: list[Source] = []
    names: list[str] = []
    for path in map(Path, paths):
        if path.is_file() and path.suffix.lower() == ".npz":
            arrays = read_samples(path, inputs)
            sources.append(arrays)
            names += _numbered(path, len(arrays))
        else:
            files = _picture_files(path)
            sources.append(_pictures(path, files, inputs, preprocessing))
            names += files
    if not sources:
        raise DataError("no data were given", got="no paths", expected="a picture, a folder of pictures, or an .npz")
    return _whole(sources[0] if len(sources) == 1 else Joined(tuple(sources)), None, (), names)


def _open_folder(
    root: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing, class_names: Sequence[str] | None
) -> Dataset:
    classes = class_folders(root)
    known = tuple(classes) if class_names is None else tuple(class_names)
    strange = next((name for name in classes if name not in known), None)
    if strange is not None:
        raise DataError(
            f"{root / strange} is not a class of the model",
            got=strange,
            expected=", ".join(known[:20]) + (", …" if len(known) > 20 else ""),
            remedy="name the folders as the model's labels are named",
        )
    names = [name for pictures in classes.values() for name in pictures]
    labels = np.repeat(
        np.array([known.index(name) for name in classes], dtype=np.int64), [len(files) for files in classes.values()]
    )
    files = [f"{root}/{name}" for name in names]
    return _whole(_pictures(root, files, inputs, preprocessing), labels, known, names)


def _picture_files(path: Path) -> list[str]:
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise DataError(
            f"{path} is not a file or folder" if path.exists() else f"{path} does not exist",
            expected="a picture, a folder of pictures, or an .npz",
        )
    files = [f"{path}/{name}" for name in pictures_below(path)]
    if not files:
        raise DataError(f"{path} holds no pictures", expected="pictures in it or in its subfolders")
    return files


def _pictures(path: Path, files: Sequence[str], inputs: Sequence[TensorSpec], preprocessing: Preprocessing) -> Pictures:
    """Pictures for a model that takes uint8 (height, width, channels), and no other."""
    described = ", ".join(f"{spec.dtype} {list(spec.shape)} as {spec.name}" for spec in inputs)
    if preprocessing.kind != "image" or preprocessing.mode is None or preprocessing.size is None:
        raise DataError(
            f"{path} holds pictures, but the model takes arrays",
            got="pictures",
            expected=f"an .npz with {described}",
            remedy="export with --mean and --std, so that the model takes pictures, or save arrays in an .npz",
        )
    shape = (*preprocessing.size, 3 if preprocessing.mode == "RGB" else 1)
    if len(inputs) != 1 or inputs[0].dtype != "uint8" or tuple(inputs[0].shape) != shape:
        raise DataError(
            f"{path} holds pictures, which do not fit the model's inputs",
            got=f"pictures: uint8 {list(shape)}",
            expected=described,
            remedy="export with --mean and --std, so that the model takes pictures, or save arrays in an .npz",
        )
    return Pictures(files, inputs[0].name, preprocessing.mode, preprocessing.size, preprocessing.resize)


def _refuse_one_class(path: Path, dataset: Dataset) -> None:
    present = np.unique(dataset.labels if dataset.labels is not None else [])
    if len(present) < 2:
        raise DataError(
            f"{path} holds samples of one class only",
            got=", ".join(dataset.class_names[index] for index in present),
            expected="at least two classes",
            remedy="one subfolder per class, or labels of two classes and more in y",
        )


def _whole(
    source: Source, labels: NDArray[np.int64] | None, class_names: tuple[str, ...], names: Sequence[str]
) -> Dataset:
    return Dataset(source, np.arange(len(source), dtype=np.int64), labels, class_names, tuple(names))


def _numbered(path: Path, samples: int) -> list[str]:
    return [f"{path}[{index}]" for index in range(samples)]
