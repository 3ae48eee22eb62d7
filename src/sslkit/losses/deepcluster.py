"""Clusters of the last epoch's embeddings as classes: DeepCluster v2."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong
from sslkit._unit import unit
from sslkit.distributed import Group, all_sum, global_mean

UNASSIGNED = -1


def deepcluster_loss(scores: Tensor, assignments: Tensor, *, temperature: float = 0.1, group: Group | None = None) -> Tensor:
    """Every view of a picture is classified as the picture's cluster.

        loss = mean over heads of  mean over views and pictures with a cluster of
               - log softmax(scores[head, view, b] / temperature)[assignments[head, b]]

    Args:
        scores: [heads, views, batch, prototypes], cosines of embeddings and each head's frozen centroids; floating.
        assignments: [heads, batch] int64, the clusters of the pictures; -1: none yet, and no part in the loss.
        temperature: above 0.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider. A head in which no picture has a cluster counts as 0.

    Raises:
        ValueError: the axes disagree, or a temperature that is not positive.
        TypeError: scores are not floating, assignments not int64.

    Source: Caron et al. 2020 (SwAV), appendix "DeepCluster-v2", and the authors' main_deepclusterv2.py.
    """
    sizes = bind_axes("deepcluster_loss", scores=(scores, "heads views batch prototypes"), assignments=(assignments, "heads batch"))
    need_floating("deepcluster_loss", scores=scores)
    need_positive("deepcluster_loss", temperature=temperature)
    if assignments.dtype != torch.int64:
        raise wrong("deepcluster_loss", given=f"assignments of dtype {assignments.dtype}", expected="int64, -1 where there is none",
                    mend="write assignments.long()", kind=TypeError)  # fmt: skip
    heads, views = sizes["heads"], sizes["views"]
    wide = torch.promote_types(scores.dtype, torch.float32)
    logits = scores.to(wide).transpose(1, 2) / temperature  # [heads, batch, views, prototypes]
    classes = assignments[..., None].expand(-1, -1, views)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 2), classes.flatten(), ignore_index=UNASSIGNED, reduction="none")
    terms = views * all_sum((assignments != UNASSIGNED).sum(dim=1).to(wide), group)  # [heads]
    loss = (losses.view(heads, -1).sum(dim=1) / terms.clamp(min=1)).sum()
    return global_mean(loss, heads, group)


@dataclass(frozen=True)
class Clusters:
    """centroids [prototypes, dim], unit rows; assignments [rows] int64, of this process's rows."""

    centroids: Tensor
    assignments: Tensor


@torch.no_grad()
def spherical_kmeans(embeddings: Tensor, centroids: Tensor, *, iterations: int = 10, chunk: int = 8192,
                     group: Group | None = None) -> Clusters:  # fmt: skip
    """k-means of unit vectors by cosine.

        `iterations` times:
            a[n] = argmax over k of <embeddings[n], centroids[k]>
            centroids[k] = unit(mean of embeddings[n] with a[n] = k)            as it was where there is none
        then a once more, for the centroids at the end

    Args:
        embeddings: [rows, dim], floating, unit rows.
        centroids: [prototypes, dim], where it starts: random rows of the embeddings, the same on every process.
        iterations: 1 or more.
        chunk: rows compared at a time.
        group: rows are those of all these processes; centroids stay the same on all.

    Returns:
        Clusters, float32 or wider.

    Raises:
        ValueError: the axes disagree, iterations or chunk below 1.
        TypeError: not floating.

    Source: Caron et al. 2020 (SwAV), main_deepclusterv2.py.
    """
    bind_axes("spherical_kmeans", embeddings=(embeddings, "rows dim"), centroids=(centroids, "prototypes dim"))
    need_floating("spherical_kmeans", embeddings=embeddings, centroids=centroids)
    need_whole("spherical_kmeans", iterations=iterations, chunk=chunk)
    x = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    means = centroids.to(x.dtype)
    for _ in range(iterations):
        nearest = _nearest(x, means, chunk)
        sums = all_sum(torch.zeros_like(means).index_add_(0, nearest, x), group)
        counts = all_sum(x.new_zeros(len(means)).index_add_(0, nearest, x.new_ones(len(x))), group)
        means = torch.where(counts[:, None] > 0, unit(sums), means)
    return Clusters(means, _nearest(x, means, chunk))


def _nearest(x: Tensor, centroids: Tensor, chunk: int) -> Tensor:
    parts = [(part @ centroids.T).argmax(dim=1) for part in torch.split(x, chunk)]
    return torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.int64)
