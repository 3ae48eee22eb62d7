"""A teacher that follows its student: the exponential moving average of weights."""

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslkit._checks import need_between, wrong

# What wrappers put into names: DistributedDataParallel, torch.compile, FullyShardedDataParallel and torch's activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class MomentumEncoder(nn.Module):
    """A copy of a student, moved towards it by `update` and by nothing else.

        teacher <- momentum * teacher + (1 - momentum) * student       every parameter, paired by name

    The order of the official steps: optimiser step, then `update` with the momentum of the same step, once per optimiser step, whatever
    the number of backward passes. A student whose step a GradScaler skipped has not moved; the teacher may be updated all the same.

        teacher = MomentumEncoder(student)
        ...
        optimizer.step()
        teacher.update(cosine(step, base=0.996, final=1.0, steps=steps))

    The teacher is float32 or wider, whatever the student is: in bfloat16, 0.9995 * a + 0.0005 * b is a for every b within 3 |a| of a.
    Give it float32 inputs, or run it under autocast. It carries no gradient, and it alone is saved, as teacher.<name in the student>.

    Buffers and mode. Dropout and drop path of the teacher are always off. "copy": every buffer is copied at `update`, and the teacher
    stays in eval mode, also inside a module that is put into training mode. "own": no buffer is copied; in training mode the teacher's
    BatchNorms normalise by its own batch and keep their own statistics, as in MoCo and DINO v1.

    Wrapped students. One inside of DistributedDataParallel or `torch.compile` may be given as it is, wrapped before or after; the
    teacher is then neither. For `fully_shard`: build this first, then shard the student and `.teacher` alike, the latter with
    reshard_after_forward=True.

    Args:
        student: the network that is trained. It is held by reference, and is no submodule of this one; a deep copy of this module follows
            a deep copy of the student.
        buffers: "copy" or "own", as above.

    Shapes: those of the student.

    Raises:
        ValueError: another word for `buffers`, a student that cannot be copied, a momentum outside [0, 1]; at `update`, names, shapes or
            shards that differ, or a teacher put into 16 bit.

    Source: Tarvainen & Valpola 2017; He et al. 2020 (MoCo), eq. 2; Caron et al. 2021 (DINO), algorithm 1.
    """

    def __init__(self, student: nn.Module, *, buffers: Literal["copy", "own"] = "copy") -> None:
        super().__init__()
        if buffers not in ("copy", "own"):
            raise wrong("MomentumEncoder", given=f"buffers={buffers!r}", expected='"copy" or "own"',
                        mend='take "own" for a teacher whose BatchNorms see its own batches')  # fmt: skip
        student = _unwrapped(student)
        self._student = (student,)  # in a tuple, which nn.Module does not look into: the student's parameters are not this module's
        self.buffer_rule = buffers
        try:
            self.teacher = copy.deepcopy(student).requires_grad_(False)
        except RuntimeError as error:
            raise wrong("MomentumEncoder", given=f"a {type(student).__name__} that cannot be deep-copied", expected="one that can",
                        mend="take DINOHead, or parametrizations.weight_norm, instead of torch's old weight_norm") from error  # fmt: skip
        for tensor in chain(self.teacher.parameters(), self.teacher.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))
        self.train()

    def train(self, mode: bool = True) -> "MomentumEncoder":
        super().train(mode)
        self.teacher.eval()
        for module in self.teacher.modules():
            if self.buffer_rule == "own" and isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the teacher says, without gradient."""
        return self.teacher(*inputs, **options)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Moves the teacher, in place: 1 leaves it, 0 copies the student. Nothing waits for the device."""
        need_between("MomentumEncoder.update", 0, 1, momentum=momentum)
        (student,) = self._student
        old, new = _pairs(self.teacher.named_parameters(), student.named_parameters())
        if narrow := {x.dtype for x in old if x.is_floating_point() and x.dtype.itemsize < 4}:
            raise wrong("MomentumEncoder.update", given=f"a teacher in {', '.join(map(str, narrow))}", expected="float32 or wider",
                        mend="cast the student alone; run the teacher under autocast")  # fmt: skip
        if {hasattr(x, "placements") for x in old} != {hasattr(x, "placements") for x in new}:  # a DTensor's
            raise wrong("MomentumEncoder.update", given="one of teacher and student in shards", expected="both, or neither",
                        mend="fully_shard(teacher.teacher, reshard_after_forward=True), on the student's mesh")  # fmt: skip
        if old:
            torch._foreach_lerp_(old, [x.to(o.dtype) for x, o in zip(new, old, strict=True)], 1 - momentum)
        if self.buffer_rule == "copy":
            old, new = _pairs(self.teacher.named_buffers(), student.named_buffers())
            for dtype in {x.dtype for x in old}:  # one launch for each: a ResNet-50 has 159 of them
                pairs = [(o, n) for o, n in zip(old, new, strict=True) if o.dtype == dtype]
                torch._foreach_copy_([o for o, _ in pairs], [n for _, n in pairs])


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network inside of DistributedDataParallel and torch.compile; a copy of either would be of no use, if it could be had."""
    while True:
        inner = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module._modules.get("_orig_mod")
        if inner is None:
            return module
        module = inner


def _pairs(teacher: Iterable[tuple[str, Tensor]], student: Iterable[tuple[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of equal names, in the teacher's order. By place, two networks of different structure would be mixed without a word."""
    mine, theirs = _bare(teacher), _bare(student)
    other = {f"{name} {list(x.shape)}" for name, x in mine.items() if name in theirs and x.shape != theirs[name].shape}
    if mine.keys() != theirs.keys() or other:
        found = {"missing": mine.keys() - theirs.keys(), "new": theirs.keys() - mine.keys(), "of another shape": other}
        parts = [f"{len(names)} {what} ({', '.join(sorted(names)[:6])})" for what, names in found.items() if names]
        raise wrong("MomentumEncoder.update", given=f"a student with names {'; '.join(parts)}, at most six shown",
                    expected="the names and shapes of the teacher",
                    mend="build the MomentumEncoder after the last change of the student's structure")  # fmt: skip
    return list(mine.values()), [theirs[name] for name in mine]


def _bare(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Names without those of wrappers."""
    out: dict[str, Tensor] = {}
    for name, tensor in named:
        bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if bare in out:
            raise wrong("MomentumEncoder.update", given=f"{name} and another parameter named {bare} without its wrappers",
                        expected="names that differ without them", mend="call no submodule of yours `module`")  # fmt: skip
        out[bare] = tensor
    return out
