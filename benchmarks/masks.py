"""Masks: ours against the forms of MAE, lightly, BEiT, SlowFast and I-JEPA, written here from their descriptions.

Each form gives what its users work with: ours masks and ids. The random ones draw the same noise from one generator, so their visible
tokens must agree; the others draw for themselves, and their counts are compared.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Report, command, compare
from sslkit.maskers import BlockwiseMasker, CubeMasker, Masker, MultiBlockMasker, RandomMasker

IMAGE, CLIP = (14, 14), (8, 14, 14)
CALLS = 10  # a call of a tenth of a millisecond is below what a clock measures well
NOTE = "shared machine; ratios are formed inside a round"


def ours(masker: Masker, batch: int, grid: tuple[int, ...]) -> Tensor:
    """Hidden tokens of the last of CALLS batches, [batch, tokens]."""
    generator = torch.Generator().manual_seed(0)
    return [masker(batch, grid, generator=generator).mask for _ in range(CALLS)][-1]


# --- random: MAE, lightly -----------------------------------------------------------------------------------------------------------

BATCH, KEPT, TOKENS = 128, 49, 196


def random_ours(generator: torch.Generator) -> Tensor:
    return RandomMasker(count=TOKENS - KEPT)(BATCH, IMAGE, generator=generator).ids_keep


def two_sorts(generator: torch.Generator) -> Tensor:
    """MAE's: sort the noise, sort the order for its inverse, gather a float mask by it."""
    order = torch.rand(BATCH, TOKENS, generator=generator).argsort(dim=1)
    restore = order.argsort(dim=1)
    mask = torch.ones(BATCH, TOKENS)
    mask[:, :KEPT] = 0
    mask.gather(1, restore)
    return order[:, :KEPT]


def one_sort(generator: torch.Generator) -> Tensor:
    """lightly's: sort the noise, split the order in two; a class token is not counted here."""
    order = torch.rand(BATCH, TOKENS, generator=generator).argsort(dim=1)
    return order.split([KEPT, TOKENS - KEPT], dim=1)[0]


def repeated(form: Callable[[torch.Generator], Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return [form(generator) for _ in range(CALLS)][-1]


def same_visible(mine: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(mine.sort(dim=1).values, reference.sort(dim=1).values)


# --- blocks: BEiT, SlowFast ---------------------------------------------------------------------------------------------------------


def box_of(area: float, aspect: float) -> tuple[int, int]:
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def by_slices(box: Any) -> None:
    box[:] = 1


def by_tokens(box: Any) -> None:
    """As BEiT's code does it."""
    for place in itertools.product(*map(range, box.shape)):
        if box[place] == 0:
            box[place] = 1


def beit(fill: Callable[[Any], None], count: int = 75, least: int = 16) -> Any:
    """One mask by the algorithm of BEiT's public sampler."""
    mask, hidden, end = np.zeros(IMAGE, dtype=np.int32), 0, math.log(0.3)
    while hidden < count:
        new = 0
        for _ in range(10):
            h, w = box_of(random.uniform(least, count - hidden), math.exp(random.uniform(end, -end)))
            if h < IMAGE[0] and w < IMAGE[1]:
                top, left = random.randint(0, IMAGE[0] - h), random.randint(0, IMAGE[1] - w)
                box = mask[top : top + h, left : left + w]
                adds = h * w - int(box.sum())
                if 0 < adds <= count - hidden:
                    fill(box)
                    new = adds
                    break
        if not new:
            break
        hidden += new
    return mask


def one_by_one(sampler: Callable[[], Any], batch: int) -> Tensor:
    """A loader's way: mask by mask, then stacked. The last of CALLS batches."""
    random.seed(0)
    return [torch.stack([torch.from_numpy(sampler()) for _ in range(batch)]).flatten(1).bool() for _ in range(CALLS)][-1]


def slowfast(fill: Callable[[Any], None], ratio: float = 0.4) -> Any:
    """One mask by the algorithm of SlowFast's public 3-D sampler."""
    t, rows, columns = CLIP
    mask, hidden, end, count = np.zeros(CLIP, dtype=np.int32), 0, math.log(0.3), round(math.prod(CLIP) * ratio)
    while hidden < count:
        new = 0
        for _ in range(100):
            h, w = box_of(random.uniform(rows * columns // 5, rows * columns), math.exp(random.uniform(end, -end)))
            long = random.randint(1, t)
            if h < rows and w < columns:
                top, left, front = random.randint(0, rows - h), random.randint(0, columns - w), random.randint(0, t - long)
                box = mask[front : front + long, top : top + h, left : left + w]
                adds = box.size - int(box.sum())
                if 0 < adds <= count - hidden:
                    fill(box)
                    new = adds
                    break
        if not new:
            break
        hidden += new
    return mask


def similar_counts(mine: Tensor, reference: Tensor) -> None:
    """Of 16 rows or more: the means within 3 % of each other."""
    torch.testing.assert_close(mine.sum(dim=1).double().mean(), reference.sum(dim=1).double().mean(), rtol=0.03, atol=0)


# --- context and targets: I-JEPA ----------------------------------------------------------------------------------------------------


def multi_block_ours(batch: int) -> Tensor:
    context, _ = MultiBlockMasker()(batch, IMAGE, generator=torch.Generator().manual_seed(0))
    return context.mask


def collator(batch: int) -> Tensor:
    """I-JEPA's, in lightly too: sizes of the batch; sample by sample planes of zeros, a block of ones, its tokens by nonzero; contexts
    of 10 tokens or fewer are drawn again; at last all are cut to the smallest count. Returns the hidden tokens of the contexts."""
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for scale, aspect in (((0.15, 0.2), (0.75, 1.5)), ((0.85, 1.0), (1.0, 1.0))):
        u = torch.rand(1, generator=generator).item()
        h, w = box_of(int(TOKENS * (scale[0] + u * (scale[1] - scale[0]))), aspect[0] + u * (aspect[1] - aspect[0]))
        sizes.append((min(h, IMAGE[0] - 1), min(w, IMAGE[1] - 1)))

    def block(size: tuple[int, int], allowed: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        while True:
            top, left = (torch.randint(0, side - n, (1,), generator=generator).item() for side, n in zip(IMAGE, size, strict=True))
            mask, others = torch.zeros(IMAGE, dtype=torch.int32), torch.ones(IMAGE, dtype=torch.int32)
            mask[top : top + size[0], left : left + size[1]] = 1
            others[top : top + size[0], left : left + size[1]] = 0
            for region in allowed:
                mask = mask * region
            if len(ids := mask.flatten().nonzero()[:, 0]) > 10:
                return ids, others

    contexts, targets = [], []
    for _ in range(batch):
        blocks = [block(sizes[0]) for _ in range(4)]
        targets.append(torch.stack([ids for ids, _ in blocks]))
        contexts.append(block(sizes[1], [others for _, others in blocks])[0])
    torch.stack(targets)
    least = min(map(len, contexts))
    kept = torch.stack([ids[:least] for ids in contexts])
    return torch.ones(batch, TOKENS, dtype=torch.bool).scatter(1, kept, False)


def jobs(name: str) -> tuple[str, dict[str, Callable[[], Tensor]], Callable[[Tensor, Tensor], None] | None]:
    """Title, forms, and how they must agree; the reference comes last."""
    if name == "random":
        forms = {"sslkit": random_ours, "two sorts and a mask (MAE)": two_sorts, "one sort (lightly)": one_sort}
        title = f"Random masks, {CALLS} batches of {BATCH} x {TOKENS}, {KEPT} visible"
        return title, {form: partial(repeated, call) for form, call in forms.items()}, same_visible
    if name.startswith("blockwise"):
        batch = int(name.split("_")[1])
        blocks: dict[str, Callable[[], Tensor]] = {
            "sslkit": partial(ours, BlockwiseMasker(count=75), batch, IMAGE),
            "sslkit, exact=False": partial(ours, BlockwiseMasker(count=75, exact=False), batch, IMAGE),
            "mask by mask, filled by slices": partial(one_by_one, partial(beit, by_slices), batch),
            "mask by mask, filled token by token (BEiT)": partial(one_by_one, partial(beit, by_tokens), batch),
        }
        return f"Block masks, {CALLS} batches of {batch} x (14, 14), 75 of 196, at least 16 a block", blocks, similar_counts
    if name == "cube":
        cubes: dict[str, Callable[[], Tensor]] = {
            "sslkit": partial(ours, CubeMasker(0.4), 16, CLIP),
            "sslkit, exact=False": partial(ours, CubeMasker(0.4, exact=False), 16, CLIP),
            "mask by mask, filled by slices": partial(one_by_one, partial(slowfast, by_slices), 16),
            "mask by mask, filled token by token (SlowFast)": partial(one_by_one, partial(slowfast, by_tokens), 16),
        }
        return f"Cube masks, {CALLS} batches of 16 x (8, 14, 14), ratio 0.4", cubes, similar_counts
    contexts: dict[str, Callable[[], Tensor]] = {
        "sslkit": partial(multi_block_ours, 64),
        "block by block (I-JEPA, lightly)": partial(collator, 64),
    }
    return "Context and four targets, 64 x (14, 14)", contexts, None


JOBS = ("random", "blockwise_128", "blockwise_1024", "cube", "multiblock")


def run(job: str, rounds: int = 15) -> Report:
    title, forms, agree = jobs(job)
    notes = (NOTE,) if agree else (NOTE, "the two cut the context to one count by different rules, so no agreement is checked")
    return compare(f"masks_{job}", forms, rounds=rounds, reference=list(forms)[-1], agree=agree, title=title, notes=notes)


main = command(__doc__, run, JOBS, rounds=15)

if __name__ == "__main__":
    main()
