"""What the maskers' tests share: statistics of many masks with their bounds, and loops over single numbers."""

import math

import numpy as np
import torch

from sslkit.counter import bits


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planes(mask):
    """bool [batch, *grid] of a TokenMask."""
    return mask.mask.view(-1, *mask.grid)


def same(m, n):
    assert m.grid == n.grid
    assert torch.equal(m.mask, n.mask)
    assert torch.equal(m.ids_keep, n.ids_keep)


def tells_one_story(m, count):
    """`count` hidden in every row, and ids that say what the mask says."""
    batch, tokens = m.mask.shape
    assert tokens == math.prod(m.grid)
    assert m.mask.sum(dim=1).tolist() == [count] * batch
    assert m.ids_keep.dtype == m.ids_hidden.dtype == torch.int64
    assert torch.equal((~m.mask).nonzero()[:, 1].view(batch, tokens - count), m.ids_keep)
    assert torch.equal(torch.cat([m.ids_keep, m.ids_hidden], 1).sort(1).values, torch.arange(tokens).expand(batch, -1))


def deviation(p, q, n, m=math.inf):
    """The largest distance of two frequencies over n and m draws (m infinite: a probability), in standard errors."""
    p, q = torch.as_tensor(p).double(), torch.as_tensor(q).double()
    middle = (p * n + q * m) / (n + m) if m < math.inf else q
    error = (middle * (1 - middle) * (1 / n + 1 / m)).sqrt()
    assert torch.all((error > 0) | (p == q))
    return ((p - q).abs() / error.clamp(min=1e-12)).max().item()


def is_like_its_image(flags, image, bound=5.0):
    """Whether n masks [n, ...] have the frequencies of their images. Of one mask the two are at worst opposite: twice the variance."""
    n, p = len(flags), flags.double().mean(dim=0)
    return ((p - image(p)).abs() <= bound * (4 * p * (1 - p) / n).sqrt() + 1e-12).all().item()


def adjacent_pairs(flags):
    """Mean number of hidden neighbours, side by side or one above the other, of masks [n, h, w]."""
    f = flags.double()
    return ((f[:, 1:] * f[:, :-1]).sum() + (f[:, :, 1:] * f[:, :, :-1]).sum()).item() / len(f)


def histogram(counts, length):
    return torch.bincount(counts, minlength=length).double() / len(counts)


class Numbers:
    """The numbers of one sample's key, by slot: what the loops below take instead of tensors."""

    def __init__(self, key):
        self.key = int(key)

    @staticmethod
    def of(u):
        """From the two uniform numbers of a row."""
        return Numbers((int(u[0] * 2**24) << 8) | int(u[1] * 2**8))

    def __call__(self, slot):
        return int(bits(self.key, slot))


def sides(number, low, high, min_aspect):
    """Height and width from one number, step by step in float32."""
    f = np.float32
    area = f(low) + f(f(high) - f(low)) * (f(number >> 12) * f(2**-20))
    x = (f(number & 4095) * f(2) + f(-4095)) * f(-math.log(min_aspect) / 4096 / 128)
    aspect = (f(1) + x) / (f(1) - x)
    for _ in range(6):
        aspect = aspect * aspect
    assert abs(math.log(aspect) - 128 * float(x)) < 2.1e-5 * abs(128 * x) ** 3 + 2e-5  # log-uniform to the third order, and rounding
    root, slant = f(math.sqrt(area)), f(math.sqrt(aspect))
    return round(float(root * slant)), round(float(root / slant))


def place(number, *free):
    """One of the product of free places, as an index along each axis."""
    at = number * math.prod(free) >> 32
    found = []
    for n in free[::-1]:
        found.insert(0, at % n)
        at //= n
    return found


def grow(mask, target, numbers, slot):
    """Hides the nearest tokens around a random point of a random hidden token, until `target` are hidden."""
    among = [tuple(i) for i in np.argwhere(mask if mask.any() else ~mask)]
    centre = among[numbers(slot) * len(among) >> 32]
    point = [64 * c + 2 * (numbers(slot + 1 + axis) >> 27) - 31 for axis, c in enumerate(centre)]

    def order(token):
        distances = [abs(64 * i - p) for i, p in zip(token, point, strict=True)]
        return max(distances), sum(distances), tuple(token)

    for token in sorted((tuple(i) for i in np.argwhere(~mask)), key=order)[: target - int(mask.sum())]:
        mask[token] = True
    return mask


def most_blocks(tokens, target):
    return 24 + math.ceil(24 * math.log(tokens / (tokens - target + 1)))
