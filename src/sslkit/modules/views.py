"""Crops of several sizes through one network."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from sslkit._checks import wrong


def encode_views(encoder: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
    """Embeds views of the same pictures, those of one size that follow each other in one call.

        out[v] = encoder(views[v])

    BatchNorm so sees the views of one size together, as in the official multi-crop. Under DistributedDataParallel wrap a module that calls
    this, so that there is one forward pass a step.

    Args:
        encoder: images [n, channels, height, width] (or clips) -> embeddings [n, dim].
        views: [batch, ...] each, of the same batch; sizes may differ.

    Returns:
        [views, batch, dim], in the order of the views.

    Raises:
        ValueError: no view, or views of different batches.

    Source: Caron et al. 2020 (SwAV), sec. 3.2; whole shapes are compared, where the authors' code looks at the width alone.
    """
    batches = {len(view) for view in views}
    if len(batches) != 1:
        raise wrong("encode_views", given=f"{len(views)} views of batches {sorted(batches)}", expected="one view or more of one batch",
                    mend="pass the list that a MultiCrop gives")  # fmt: skip
    runs = [list(run) for _, run in groupby(views, key=lambda view: view.shape)]
    out = [encoder(torch.cat(run)) for run in runs]  # each [run * batch, dim]
    return torch.cat(out).view(len(views), len(views[0]), -1)
