"""One embedding space for each augmentation: leave-one-out contrastive learning (LooC)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sslkit._bank import softmax_mean
from sslkit._checks import bind_axes, need_floating, need_positive, wrong
from sslkit._unit import products, unit
from sslkit.distributed import Group, gather, global_mean, row_count


def looc_loss(queries: Tensor, keys: Tensor, queues: Tensor, shared: Sequence[int] | None = None, *, temperature: float = 0.2,
              others: Literal["image", "batch"] = "image", group: Group | None = None) -> Tensor:  # fmt: skip
    """Each head finds the key that shares its augmentation, among the image's other keys and its queue.

        s(a, b) = <unit(a), unit(b)> / temperature,   v(h): the view that shares augmentation h with the query, v(0): none
        loss = mean over heads h, images b of  -log( exp s(q[h, b], k[v(h), h, b]) / sum over c in C(h, b) of exp s(q[h, b], c) )

        C(0, b) = own key and queue 0                                   every augmentation is to be ignored: MoCo
        C(h, b) = own key, queue h, and k[j, h, b] of the image's other views j, which differ from the query in augmentation h alone
                  by being drawn anew                                   so head h tells them apart, and ignores all but augmentation h

    Args:
        queries: [heads, batch, dim], a query view through every head, not necessarily normalised; floating.
        keys: [views, heads, batch, dim], key views through every head of the momentum encoder; as many views as heads; floating, of any
            dtype. No gradient.
        queues: [heads, size, dim]: `SupportSet.rows` of each head, stacked; earlier keys k[v(h), h]; floating, of any dtype, such as a
            bfloat16 queue, and compared in that of the result. No gradient.
        shared: for each view the head whose augmentation it shares with the query, 0: none; `LeaveOneOut.shared`. None: 0, 1, 2, ...
        temperature: above 0; 0.2 is MoCo v2's.
        others: whose other keys head h > 0 must tell from its own: "image", those of the same image, as the paper writes; "batch", those
            of all images of all processes, as the public code named below does with those of its own process.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`), which hold equal queues.

    Returns:
        Scalar in [0, inf), of the widest dtype of float32, queries and keys. One head is MoCo's loss. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, `shared` does not name every head once, temperature <= 0, an unknown word.
        TypeError: not floating.

    Source: Xiao et al. 2021, "What Should Not Be Contrastive in Contrastive Learning", eq. 2 and 3; their code is not public. Mañas et al.
    2021, "Seasonal Contrast", took the method up (ServiceNow/seasonal-contrast, models/moco2_module.py): others="batch" there, the sum of
    the heads' losses where this is their mean, and temperature 0.07.
    """
    where = "looc_loss"
    sizes = bind_axes(where, queries=(queries, "heads batch dim"), keys=(keys, "views heads batch dim"), queues=(queues, "heads size dim"))
    need_floating(where, queries=queries, keys=keys, queues=queues)
    need_positive(where, temperature=temperature)
    heads, batch = sizes["heads"], sizes["batch"]
    view_of = list(range(sizes["views"])) if shared is None else [int(h) for h in shared]
    if sorted(view_of) != list(range(heads)) or len(view_of) != sizes["views"]:
        raise wrong(where, given=f"shared={view_of} for {sizes['views']} views and {heads} heads", expected=f"0 to {heads - 1}, each once",
                    mend="pass a view for every head, and LeaveOneOut.shared")  # fmt: skip
    if others not in ("image", "batch"):
        raise wrong(where, given=f"others={others!r}", expected='"image" or "batch"', mend='"image" is the paper\'s')
    q, k = unit(queries), unit(keys.detach())
    wide = torch.promote_types(q.dtype, k.dtype)
    q, k = q.to(wide), k.to(wide)
    total = q.new_zeros(())
    for h in range(heads):  # a handful; a queue of each is too large to be stacked with the others' scores
        own = view_of.index(h)
        positive = (q[h] * k[own, h]).sum(dim=1) / temperature  # [batch]
        rest = softmax_mean(q[h] / temperature, queues[h].detach())[0] if sizes["size"] else torch.full_like(positive, -torch.inf)
        foreign = [v for v in range(len(view_of)) if v != own] if h else []
        if foreign and others == "image":
            near = (q[h] * k[foreign, h]).sum(dim=2).T / temperature  # [batch, views - 1]; no product that autocast would round
            rest = torch.cat([rest[:, None], near], dim=1).logsumexp(dim=1)
        elif foreign:
            rows = gather(k[foreign, h].transpose(0, 1).contiguous(), group).rows.flatten(0, 1)
            rest = torch.cat([rest[:, None], products(q[h], rows) / temperature], dim=1).logsumexp(dim=1)
        if foreign or sizes["size"]:  # else nothing can be confused with the own key
            total = total - logsigmoid(positive - rest).sum() / heads
        else:
            total = total + positive.sum() * 0
    return global_mean(total, row_count(batch, group), group)
