"""Input checks. An error says what was given, what was expected, and how to mend it.

Checks read ranks, sizes, dtypes, devices and Python numbers, never tensor values: that would stall a GPU.
"""

from torch import Tensor


def wrong(where: str, *, given: str, expected: str, mend: str, kind: type[Exception] = ValueError) -> Exception:
    """The three-part error, to be raised by the caller: `raise wrong("nt_xent", given=..., expected=..., mend=...)`."""
    return kind(f"{where}: got {given}; expected {expected}. To mend: {mend}.")


def bind_axes(where: str, **tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Matches named axes across tensors, on one device, and returns the size of every axis.

        bind_axes("masked_mse", prediction=(p, "batch tokens dim"), mask=(m, "batch tokens"))  ->  {"batch": 4, "tokens": 196, "dim": 768}

    An axis named by a number must have that size; `...` in front stands for any number of leading axes, which are not compared.

    Raises:
        TypeError: something is not a tensor.
        ValueError: a rank, a size or a device disagrees. Broadcasting is never accepted.
    """
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    first: tuple[str, Tensor] | None = None
    for name, (tensor, axes) in tensors.items():
        if not isinstance(tensor, Tensor):
            raise wrong(where, given=f"{name} of type {type(tensor).__name__}", expected=f"a tensor [{axes.replace(' ', ', ')}]",
                        mend=f"pass torch.as_tensor({name})", kind=TypeError)  # fmt: skip
        names = axes.split()
        shape = list(tensor.shape)
        if names[0] == "...":
            names = names[1:]
            too_few = len(shape) < len(names)
            shape = shape[len(shape) - len(names) :] if not too_few else shape
        else:
            too_few = len(shape) != len(names)
        if too_few:
            raise wrong(where, given=f"{name} {list(tensor.shape)}, {tensor.ndim} axes", expected=f"the axes [{axes.replace(' ', ', ')}]",
                        mend=f"reshape {name} to these axes, in this order")  # fmt: skip
        for axis, size in zip(names, shape, strict=True):
            want = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            source = "" if axis.isdigit() else f" as in {owner.setdefault(axis, name)}"
            if size != want:
                label = "an axis" if axis.isdigit() else axis
                raise wrong(where, given=f"{name} {list(tensor.shape)} with {label}={size}", expected=f"{label}={want}{source}",
                            mend=f"pass {' and '.join(tensors)} with equal {axis}" if source else f"make that axis {want}")  # fmt: skip
        if first is None:
            first = (name, tensor)
        elif tensor.device != first[1].device:
            raise wrong(where, given=f"{name} on {tensor.device}", expected=f"{first[1].device}, where {first[0]} is",
                        mend=f"move it: {name}.to({first[0]}.device)")  # fmt: skip
    return sizes


def need_floating(where: str, **tensors: Tensor) -> None:
    """Raises a TypeError for the first tensor that is not floating point."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise wrong(where, given=f"{name} of dtype {tensor.dtype}", expected="a floating dtype",
                        mend=f"pass {name}.float(), scaled as your model needs it", kind=TypeError)  # fmt: skip


def need_positive(where: str, **numbers: float | Tensor) -> None:
    """Raises a ValueError for the first number that is not finite and above 0. Tensors are not read."""
    for name, number in numbers.items():
        if isinstance(number, Tensor):
            continue
        if not 0 < number < float("inf"):
            raise wrong(where, given=f"{name}={number}", expected=f"a finite {name} above 0", mend=f"pass a positive {name}")


def need_whole(where: str, **numbers: int) -> None:
    """Raises a ValueError for the first number that is not a whole one from 1 on."""
    for name, number in numbers.items():
        if isinstance(number, bool) or number != int(number) or number < 1:
            raise wrong(where, given=f"{name}={number}", expected=f"a whole {name} from 1 on", mend=f"pass a positive integer {name}")


def need_between(where: str, low: float, high: float, **numbers: float) -> None:
    """Raises a ValueError for the first number outside [low, high]."""
    for name, number in numbers.items():
        if not low <= number <= high:
            raise wrong(where, given=f"{name}={number}", expected=f"{name} in [{low}, {high}]", mend=f"pass a {name} in that range")
