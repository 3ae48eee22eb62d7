"""A support set's search (NNCLR) and InfoNCE against a queue (MoCo), forward and backward: ours against the published forms.

The peers are written here from their descriptions. solo-learn: all similarities at once, their largest. lightly: the bank is copied, turned
round and normalised at every call. MoCo: the queue is copied, all logits at once, cross-entropy. faiss is the package, with an index that
stands before the clock starts.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.harness import Call, Report, command, compare
from sslkit import _bank
from sslkit.losses import info_nce
from sslkit.modules import SupportSet

BATCH, TEMPERATURE = 256, 0.07
SEARCH = {"support_set_nearest": (98304, 256), "support_set_nearest_bfloat16": (98304, 256)}
QUEUE = {"info_nce_queue_128": (65536, 128), "info_nce_queue_256": (65536, 256)}
TITLES = {
    "support_set_nearest": "NNCLR's neighbours: 256 in 98304 x 256, float32",
    "support_set_nearest_bfloat16": "NNCLR's neighbours: 256 in 98304 x 256, stored in bfloat16",
    **{name: f"InfoNCE, forward and backward, {BATCH} queries, queue of {rows} x {dim}" for name, (rows, dim) in QUEUE.items()},
}


def clustered(rows: int, dim: int) -> Tensor:
    """Unit vectors around a thousand centres, as embeddings of classes lie."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, dim, generator=generator)
    return normalize(centres[torch.randint(1000, (rows,), generator=generator)] + 2 * torch.randn(rows, dim, generator=generator), dim=1)


def bank(job: str) -> tuple[SupportSet, Tensor]:
    size, dim = SEARCH[job]
    rows = clustered(size + BATCH, dim)
    support = SupportSet(size, dim, dtype=torch.bfloat16 if job.endswith("bfloat16") else torch.float32)
    support.enqueue(rows[:size])
    return support, rows[size:]


def ours(support: SupportSet, z: Tensor) -> Tensor:
    return support.nearest(z).rows


def ours_in_float32(support: SupportSet, z: Tensor) -> Tensor:
    """What `nearest` does on a CPU that is not faster in bfloat16."""
    return support.rows[_bank._plain(normalize(z, dim=1), support.rows, None)[1]]


def all_at_once(support: SupportSet, z: Tensor) -> Tensor:
    """solo-learn's."""
    return support.rows[(normalize(z, dim=1) @ support.rows.to(z.dtype).T).max(dim=1)[1]]


def copied_and_normalised(support: SupportSet, z: Tensor) -> Tensor:
    """lightly's."""
    stored = support.rows.to(z.dtype).T.clone()
    rows = normalize(stored.T.clone(), dim=1)
    found = torch.einsum("nd,md->nm", normalize(z, dim=1), rows).argmax(dim=1)
    return rows.index_select(0, found)


def faiss_flat(job: str) -> Call:
    """Exhaustive search by inner product, by matrix products: ten times as fast here as what it would choose for a batch of this size."""
    import faiss

    support, z = bank(job)
    faiss.cvar.distance_compute_blas_threshold = 1
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(support.dim)
    index.add(support.rows.float().numpy())
    return partial(search_index, index, support, z)


def search_index(index: Any, support: SupportSet, z: Tensor) -> Tensor:
    return support.rows[torch.from_numpy(index.search(normalize(z, dim=1).numpy(), 1)[1][:, 0])]


def queue(job: str) -> tuple[Tensor, Tensor, Tensor]:
    rows = clustered(QUEUE[job][0] + BATCH, QUEUE[job][1])
    keys = rows[:BATCH]
    queries = normalize(keys + 0.5 * clustered(BATCH, QUEUE[job][1]), dim=1)
    return queries.requires_grad_(), keys, rows[BATCH:]


def ours_info_nce(q: Tensor, k: Tensor, negatives: Tensor) -> Tensor:
    return info_nce(q, k, negatives=negatives, temperature=TEMPERATURE)


def moco(q: Tensor, k: Tensor, negatives: Tensor) -> Tensor:
    """The official code's; its queue lies in columns."""
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), torch.einsum("nc,ck->nk", q, negatives.T.clone().detach())], dim=1)
    return cross_entropy(logits / TEMPERATURE, torch.zeros(len(q), dtype=torch.int64))


def formula(q: Tensor, k: Tensor, negatives: Tensor) -> Tensor:
    """The equation, as plain as it goes: no copy of the queue."""
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    positive = (q * k).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, q @ negatives.T], dim=1) / TEMPERATURE
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def step(form: Callable[..., Tensor], q: Tensor, k: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    loss = form(q, k, negatives)
    return loss.detach(), torch.autograd.grad(loss, q)[0]


def products(q: Tensor, rows: Tensor, both: bool) -> None:
    """The matrix products of ours alone, slab by slab: what is left to gain is what it takes beyond them. No answer."""
    mean = torch.zeros_like(q)
    for start, slab in _bank._slabs(len(q), rows, _bank._numbers(q)):
        s = q @ slab.T
        if both:
            mean.addmm_(s, rows[start : start + len(slab)])


FAISS, PRODUCTS = "faiss, IndexFlatIP", "the matrix products of ours, no answer"
SEARCHES = {
    "sslkit": ours,
    "sslkit, float32 alone": ours_in_float32,
    "lightly, copied and normalised": copied_and_normalised,
    "solo-learn, all at once": all_at_once,
}
LOSSES = {"sslkit": ours_info_nce, "the formula": formula, "MoCo and lightly, cross-entropy": moco}


def setup(job: str, form: str) -> Call:
    """Inputs made, the call ready."""
    if form == FAISS:
        return faiss_flat(job)
    if form == PRODUCTS and job in SEARCH:
        support, z = bank(job)
        return partial(products, z, support.rows.float(), False)
    if form == PRODUCTS:
        q, _, negatives = queue(job)
        return partial(products, q.detach(), negatives, True)
    return partial(SEARCHES[form], *bank(job)) if job in SEARCH else partial(step, LOSSES[form], *queue(job))


def agree(mine: Tensor | tuple[Tensor, Tensor] | None, reference: Tensor | tuple[Tensor, Tensor]) -> None:
    """Losses and gradients to 1e-4; neighbours, whose similarities may be equal up to rounding, in all rows but one."""
    if mine is None:
        return
    if isinstance(mine, tuple):
        for a, b in zip(mine, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    elif (differ := int((mine.float() - reference.float()).abs().amax(dim=1).gt(0.01).sum())) > 1:
        raise AssertionError(f"{differ} rows have another neighbour")


def run(job: str, rounds: int = 7, memory: bool = True) -> Report:
    wanted = job == "support_set_nearest"  # faiss stores float32
    found = wanted and importlib.util.find_spec("faiss") is not None
    forms = [FAISS] * found + [PRODUCTS] + list(SEARCHES if job in SEARCH else LOSSES)
    jobs = {form: setup(job, form) for form in forms}
    peaks = {form: partial(setup, job, form) for form in forms} if memory else None
    fast = "multiplies bfloat16 faster: the search is coarse first" if _bank._fast_bf16() else "does not multiply bfloat16 faster"
    notes = ("shared machine; ratios are formed inside a round", *([f"this CPU {fast}"] if job in SEARCH else []),
             *(["faiss was not installed"] if wanted and not found else []))  # fmt: skip
    return compare(job, jobs, rounds=rounds, reference=forms[-1], agree=agree, peaks=peaks, title=TITLES[job], notes=notes,
                   more=("faiss-cpu",) if found else ())  # fmt: skip


main = command(__doc__, run, list(TITLES), rounds=7)

if __name__ == "__main__":
    main()
