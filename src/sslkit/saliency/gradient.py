"""The gradient of a class score: which pixels would change it most."""

from collections.abc import Callable

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, wrong
from sslkit.saliency._unit_range import unit_range


def gradient_saliency(model: Callable[[Tensor], Tensor], images: Tensor, classes: Tensor | None = None) -> Tensor:
    """How much each pixel moves the score of a class.

        g[b] = d model(images)[b, classes[b]] / d images[b]
        map[b, y, x] = max over channels of |g[b, c, y, x]|,   stretched to [0, 1]

    No parameter's `.grad` is touched. A few pixels are often far above the rest: cut at a high quantile for the eye.

    Args:
        model: images -> scores [batch, classes], in evaluation mode: with batch statistics, an image's score depends on the others.
        images: [batch, channels, height, width], floating, as the model takes them.
        classes: [batch], int64; None: the largest score.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 where nothing moves the score.

    Raises:
        ValueError: the axes, scores that are not [batch, classes], or a module in training mode.
        TypeError: images are not floating.

    Source: Simonyan et al. 2014, "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps", sec. 3.
    """
    batch = bind_axes("gradient_saliency", images=(images, "batch channels height width"))["batch"]
    need_floating("gradient_saliency", images=images)
    if isinstance(model, torch.nn.Module) and model.training:
        raise wrong("gradient_saliency", given="a model in training mode", expected="evaluation mode", mend="call model.eval()")
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        scores = model(x)
        if scores.ndim != 2 or len(scores) != batch:
            raise wrong("gradient_saliency", given=f"scores {list(scores.shape)}", expected=f"[{batch}, classes]",
                        mend="end the model with its classifier")  # fmt: skip
        chosen = scores.detach().argmax(dim=1) if classes is None else classes.to(scores.device)
        (gradient,) = torch.autograd.grad(scores.gather(1, chosen[:, None]).sum(), x)
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return unit_range(gradient.to(wide).abs().amax(dim=1, keepdim=True))
