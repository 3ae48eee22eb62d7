"""Class activation maps (CAM): which places a pooled classifier counted on."""

import torch
from torch import Tensor
from torch.nn import functional

from sslkit._checks import bind_axes, need_floating, wrong
from sslkit.saliency._unit_range import unit_range


@torch.no_grad()
def class_activation_map(maps: Tensor, weight: Tensor, classes: Tensor, *, size: tuple[int, int] | None = None,
                         relu: bool = False) -> Tensor:  # fmt: skip
    """The evidence for a class at every place.

        m[b, y, x] = sum over k of weight[classes[b], k] * maps[b, k, y, x],   enlarged bilinearly,  stretched to [0, 1]

    Args:
        maps: [batch, dim, h, w], features before the mean, `ConvNet.maps` say; floating.
        weight: [classes, dim], of the linear classifier after the mean.
        classes: [batch], int64: which class to ask for; the answer of the classifier, or the label.
        size: (height, width) of the images; None: that of the maps.
        relu: evidence against the class counts as none.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 where all places say the same.

    Raises:
        ValueError: the axes disagree.
        TypeError: not floating, or classes that are no integers.

    Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", eq. 2.
    """
    bind_axes("class_activation_map", maps=(maps, "batch dim h w"), weight=(weight, "classes dim"), classes=(classes, "batch"))
    need_floating("class_activation_map", maps=maps, weight=weight)
    if classes.is_floating_point():
        raise wrong("class_activation_map", given=f"classes of dtype {classes.dtype}", expected="integers",
                    mend="pass scores.argmax(dim=1)", kind=TypeError)  # fmt: skip
    wide = torch.promote_types(torch.promote_types(maps.dtype, weight.dtype), torch.float32)
    evidence = torch.einsum("bdhw,bd->bhw", maps.to(wide), weight.to(wide)[classes.long()])[:, None]
    evidence = evidence.relu() if relu else evidence
    if size is not None:
        evidence = functional.interpolate(evidence, size=size, mode="bilinear", align_corners=False)
    return unit_range(evidence)
