"""The survey: what a data path holds, before any model says what it wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeexit.data.archives import read_members
from edgeexit.data.folders import class_folders, folder_names, pictures_below
from edgeexit.data.pictures import Mode, look_at
from edgeexit.errors import DataError

__all__ = ["Survey", "refuse_other_paths", "survey"]


@dataclass(frozen=True)
class Survey:
    """What a data path holds.

    For kind "image": `class_names` in sorted order (of unlabelled data the subfolders, which may stand
    for classes), `count` pictures, `size` (height, width) and `mode` of the first picture. For kind
    "array": `arrays`, name -> (dtype, whole shape), and `count`, the length of the first array that is
    not `y`.
    """

    kind: Literal["image", "array"]
    count: int
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    mode: Mode | None = None
    arrays: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)


def survey(path: str | Path, *, labelled: bool = True) -> Survey:
    """Look at names and headers only.

    Args:
        path: A folder or an `.npz`.
        labelled: Whether a folder has to have one subfolder a class. If not, pictures may lie anywhere in it.

    Raises:
        DataError: There is neither a folder of pictures nor an `.npz`, or it cannot be used.
    """
    path = Path(path)
    refuse_other_paths(path)
    if path.is_dir():
        if labelled:
            classes = class_folders(path)
            names, files = tuple(classes), [file for pictures in classes.values() for file in pictures]
        else:
            names, files = folder_names(path), pictures_below(path)
        if not files:
            raise DataError(f"{path} holds no pictures", expected="pictures in it or in its subfolders")
        size, mode = look_at(path / files[0])
        return Survey("image", len(files), names, size, mode)
    arrays = {name: (member.dtype.name, member.shape) for name, member in read_members(path).items()}
    lengths = [shape[0] for name, (_, shape) in arrays.items() if name != "y" and shape]
    return Survey("array", lengths[0] if lengths else 0, arrays=arrays)


def refuse_other_paths(path: Path) -> None:
    """Refuse what is neither a folder nor an `.npz` file.

    Raises:
        DataError: That is so, or there is nothing at this path.
    """
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".npz"):
        return
    raise DataError(
        f"{path} is not a data set" if path.exists() else f"{path} does not exist",
        got=f"a file of the type '{path.suffix}'" if path.is_file() else None,
        expected="a folder with one subfolder of pictures per class, or an .npz with x and y",
    )
