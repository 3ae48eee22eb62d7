"""Overlap of masks with objects (Jaccard index)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.evaluation._accuracy import need_labels


@dataclass(frozen=True, eq=False)
class JaccardResult:
    """One row for each object of each image, in their order; `mean` is the number of the paper, in percent."""

    overlap: Tensor  # [objects, masks], float64 in [0, 1]: intersection over union of an object and each mask of its image
    image: Tensor  # [objects], int64
    label: Tensor  # [objects], int64
    mean: float  # percent: over images, of the mean over their objects, of the best mask

    def to_dict(self) -> dict[str, float]:
        """The mean and the counts; the overlaps are left out."""
        return {"mean": self.mean, "objects": len(self.image), "images": len(set(self.image.tolist()))}

    def __str__(self) -> str:
        return "Jaccard {mean:.1f} % of {objects} objects in {images} images".format(**self.to_dict())


@torch.no_grad()
def jaccard(masks: Tensor, truth: Tensor, *, void: int | None = 255) -> JaccardResult:
    """How well the best of an image's masks covers each of its objects.

        overlap[o, m] = |mask m and object o| / |mask m or object o|        pixels, those of `void` not counted
        mean = 100 * mean over images of  mean over the image's objects o of  max over m of overlap[o, m]

    Images without an object are passed over. The size of the masks and which objects count are not published for the paper's number.

    Args:
        masks: [batch, masks, height, width], bool, one a head: `attention_masks(..., grid=..., patch=...)`.
        truth: [batch, height, width], integers: 0 background, another number for each object (or class).
        void: pixels of this label belong to nothing, as VOC's borders; None: a label as any other.

    Returns:
        `JaccardResult`, on the CPU.

    Raises:
        ValueError: the axes disagree, masks are not bool, or there is no object at all (labels are read once an image).
        TypeError: truth does not hold integers.

    Source: Caron et al. 2021 (DINO), fig. 4; the average over objects as its author describes it.
    """
    bind_axes("jaccard", masks=(masks, "batch masks height width"), truth=(truth, "batch height width"))
    need_labels("jaccard", truth=truth)
    if masks.dtype != torch.bool:
        raise wrong("jaccard", given=f"masks of dtype {masks.dtype}", expected="torch.bool", mend="write masks > 0.5, or masks.bool()")
    overlaps, images, labels, means = [], [], [], []
    for b, (found, labelled) in enumerate(zip(masks.flatten(2), truth.flatten(1), strict=True)):
        counted = torch.ones_like(labelled, dtype=torch.bool) if void is None else labelled != void
        there = labelled[counted & (labelled != 0)].unique()  # [objects], ascending
        if not len(there):
            continue
        things = labelled == there[:, None]  # [objects, pixels]
        both = torch.stack([(found & thing).sum(dim=-1) for thing in things])  # [objects, masks]
        either = torch.stack([((found & counted) | thing).sum(dim=-1) for thing in things])
        overlaps.append(both.cpu().double() / either.cpu().double())
        images += [b] * len(there)
        labels.append(there.long().cpu())
        means.append(overlaps[-1].amax(dim=1).mean())
    if not images:
        raise wrong("jaccard", given=f"truth {list(truth.shape)} without an object", expected="a label that is neither 0 nor void",
                    mend="number the objects from 1 on; the mean of no object is not a number")  # fmt: skip
    return JaccardResult(torch.cat(overlaps), torch.tensor(images), torch.cat(labels), 100 * torch.stack(means).mean().item())
