"""InfoNCE: a query finds its own key among candidates. MoCo's loss, and the core of MoCo v3's and NNCLR's."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sslkit._bank import softmax_mean
from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit._unit import products, unit
from sslkit.distributed import Group, gather, global_mean, row_count


def info_nce(queries: Tensor, keys: Tensor, *, negatives: Tensor | None = None, temperature: float, decoupled: bool = False,
             group: Group | None = None) -> Tensor:  # fmt: skip
    """Cross-entropy of each query's own key among all candidates, by cosine.

        s(q, c) = <unit(q), unit(c)> / temperature
        loss = mean over i of  -log( exp s(q[i], k[i]) / (exp s(q[i], k[i]) + sum over the others c of exp s(q[i], c)) )

        the others:  k[j] of every j != i         negatives=None: the keys of the batch, of all processes
                     negatives[j] of every j      else, as in MoCo: the keys of the batch are not among them

    A MoCo step, with a `modules.SupportSet` as the queue and `teacher` a `modules.MomentumEncoder`:

        loss = info_nce(student(x1), teacher(x2), negatives=queue.rows, temperature=0.2)      the queue as it was before this step
        queue.enqueue(teacher(x2))                                                            after that, before or after backward()

    Args:
        queries: [batch, dim], not necessarily normalised; floating.
        keys: [batch, dim]; row i belongs to query i. Gradient flows into them: detach those of a teacher.
        negatives: [negatives, dim]; no gradient flows back, and they may be overwritten before the backward pass. No [batch, negatives]
            matrix is made: they pass by in slabs, as in attention whose values are the keys.
        temperature: above 0. 0.07 in MoCo, 0.2 in MoCo v2.
        decoupled: the own key is left out of the denominator (Yeh et al. 2022). The loss can then be negative.
        group: candidates are the keys of all these processes; with `negatives`, which every process must hold alike, the mean alone.

    Returns:
        Scalar, float32 or wider, in [0, inf) unless decoupled. 0 for a query with nothing to confuse it, and for no query at all.
        With `negatives`, differentiable once.

    Raises:
        ValueError: the axes disagree, or temperature <= 0.
        TypeError: not floating.

    Source: van den Oord et al. 2018, eq. 4; He et al. 2020 (MoCo), eq. 1 and algorithm 1.
    """
    where = "info_nce"
    more = {} if negatives is None else {"negatives": (negatives, "negatives dim")}
    batch = bind_axes(where, queries=(queries, "batch dim"), keys=(keys, "batch dim"), **more)["batch"]
    need_floating(where, queries=queries, keys=keys, **({} if negatives is None else {"negatives": negatives}))
    need_positive(where, temperature=temperature)
    q, k = unit(queries), unit(keys)
    wide = torch.promote_types(q.dtype, k.dtype)
    q, k = q.to(wide), k.to(wide)
    others: Tensor | None = None  # stays None where there is no candidate: of none, the gradient of logsumexp is nan
    if negatives is None:
        gathered = gather(k, group)
        total = gathered.rows.shape[0]
        own = gathered.start + torch.arange(batch, device=q.device)[:, None]
        logits = products(q, gathered.rows) / temperature  # [batch, global batch]
        positive = logits.gather(1, own).squeeze(1)
        if total > 1:
            others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
    else:
        total = row_count(batch, group)
        positive = (q * k).sum(dim=1) / temperature
        if negatives.shape[0]:
            others = softmax_mean(q / temperature, negatives)[0]
    if others is None:
        loss = positive * 0
    else:  # log(1 + exp x) keeps the digits of a small loss, which a difference of two large numbers would lose
        loss = others - positive if decoupled else -logsigmoid(positive - others)
    return global_mean(loss.sum(), total, group)
