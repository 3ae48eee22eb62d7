"""Any classification data set of torchvision, by its name, in the shape the other data sets have."""

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sslkit._checks import need_positive, wrong
from sslkit.datasets._loaded import Broken, LoadedImages, gather, square

_WHERE = "torchvision_dataset"


def torchvision_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    split: str | None = "train",
    size: int,
    download: bool = False,
    count: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadedImages:
    """Reads a data set of `torchvision.datasets` into memory as uint8 squares.

    Args:
        name: as in torchvision, for instance "CIFAR10" or "STL10".
        root: the folder with its files.
        split: "train" or "test" where the constructor has a `train` flag, else handed to its `split` or `image_set`; None leaves
            it out.
        size: side of the squares: short side resized to it, centre cut out.
        download: fetch the files first, where the data set can.
        count: only the first so many.
        options: further arguments of the constructor by name.

    Returns:
        images [n, 3, size, size] uint8, labels [n] int64; `classes` where the data set names them; pictures that could not be
        read in `skipped`.

    Raises:
        ValueError: no such data set, a split or option it does not take, or labels that are not one integer a picture.
        RuntimeError, OSError: from torchvision, if the files are missing.
    """
    import torchvision.datasets as sets

    need_positive(_WHERE, size=size)
    names = [each for each in sets.__all__ if inspect.isclass(getattr(sets, each))]
    if name not in names:
        lower = {each.lower(): each for each in names}
        close = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=4, cutoff=0.5)]
        like = f", such as {', '.join(close)}" if close else ""
        raise wrong(_WHERE, given=f"name={name!r}", expected=f"a data set of torchvision{like}", mend="pass its exact name: 'CIFAR10'")
    constructor = getattr(sets, name)
    takes = inspect.signature(constructor).parameters
    arguments: dict[str, Any] = dict(options or {})
    if "root" in takes:
        arguments["root"] = os.fspath(root)
    if download:
        arguments["download"] = True
    arguments |= _split_argument(name, takes, split, arguments)
    unknown = [each for each in arguments if each not in takes]
    if unknown:
        raise wrong(
            _WHERE,
            given=f"{', '.join(unknown)} for {name}",
            expected=f"arguments of {name}: {', '.join(takes)}",
            mend="leave it out",
        )
    data = constructor(**arguments)
    length = len(data) if count is None else min(count, len(data))
    classes = tuple(str(each) for each in getattr(data, "classes", ()))
    return gather(_WHERE, _read(name, data, length, size), mend=f"check the files in {os.fspath(root)!r}", classes=classes)


def _split_argument(name: str, takes: Mapping[str, Any], split: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The split, as this constructor spells it."""
    if split is None or given.keys() & {"train", "split", "image_set"}:
        return {}
    if "train" in takes:
        if split not in ("train", "test"):
            raise wrong(_WHERE, given=f"split={split!r}", expected=f"'train' or 'test' for {name}", mend="pass one of these")
        return {"train": split == "train"}
    for keyword in ("split", "image_set"):
        if keyword in takes:
            return {keyword: split}
    if split == "train":  # the default: a data set without splits is all of it
        return {}
    raise wrong(_WHERE, given=f"split={split!r}", expected=f"None, as {name} has no splits", mend="pass split=None")


def _read(name: str, data: Any, length: int, size: int) -> Iterator[tuple[Tensor | Broken, int, str]]:
    for index in range(length):
        try:
            picture, target = data[index]
            image: Tensor | Broken = square(picture, size)
        # one damaged file must not cost the others; decoders raise nearly anything.
        except Exception as error:
            yield Broken(f"{name}[{index}]", f"{type(error).__name__}: {error}"), -1, ""
            continue
        if not (isinstance(target, int) or (isinstance(target, Tensor) and target.ndim == 0)):
            raise wrong(_WHERE, given=f"{name} with labels of type {type(target).__name__}", expected="one integer a picture",
                        mend="choose a classification data set, or its target_type in options=")  # fmt: skip
        yield image, int(target), ""
