"""BASNet's loss: the sums of the paper pixel by pixel, limits, what it does not depend on."""

import math

import pytest
import torch

from sslkit.losses import basnet_loss
from sslkit.testing import proves

NAME = "losses.basnet_loss"


def disc(side=16, radius=5.0):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < radius**2).float()[None, None]


@proves(NAME, "loop")
def test_equals_the_sums_of_the_paper(generator):
    logits = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    masks = (torch.rand(2, 1, 7, 9, generator=generator) > 0.6).double()
    taps = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in range(-5, 6) for j in range(-5, 6)}
    total = sum(taps.values())
    expected = 0.0
    for k in range(3):
        bce = ssim = iou = 0.0
        for b in range(2):
            p, m = logits[b, k].sigmoid(), masks[b, 0]
            bce -= sum(math.log(p[y, x] if m[y, x] else 1 - p[y, x]) for y in range(7) for x in range(9)) / (7 * 9 * 2)
            both = sum(p[y, x] * m[y, x] for y in range(7) for x in range(9))
            iou += both / (p.sum() + m.sum() - both) / 2

            def mean(f, y, x, p=p, m=m):
                near = [(w, y + i, x + j) for (i, j), w in taps.items() if 0 <= y + i < 7 and 0 <= x + j < 9]
                return sum(w / total * f(p[i, j].item(), m[i, j].item()) for w, i, j in near)

            for y in range(7):
                for x in range(9):
                    mu, nu = mean(lambda p, m: p, y, x), mean(lambda p, m: m, y, x)
                    var, sq = mean(lambda p, m: p * p, y, x) - mu * mu, mean(lambda p, m: m * m, y, x) - nu * nu
                    cov = mean(lambda p, m: p * m, y, x) - mu * nu
                    ssim += (2 * mu * nu + 1e-4) * (2 * cov + 9e-4) / ((mu**2 + nu**2 + 1e-4) * (var + sq + 9e-4)) / (7 * 9 * 2)
        expected += bce + 1 - ssim + 1 - iou
    torch.testing.assert_close(basnet_loss(logits, masks), torch.as_tensor(expected).double(), rtol=1e-9, atol=1e-9)


@proves(NAME, "property")
def test_a_right_map_costs_nothing_and_every_part_sees_a_wrong_one(generator):
    masks = disc()
    right = (2 * masks - 1) * 40
    assert basnet_loss(right, masks) < 1e-6
    assert basnet_loss(-right, masks) > 40 + 1  # cross-entropy of 40 a pixel, no overlap, nothing alike
    empty = torch.zeros(1, 1, 16, 16)
    assert basnet_loss(empty - 1000, empty) < 1e-6  # nothing there, nothing found
    assert basnet_loss(empty + 40, empty) > 40
    shifted = basnet_loss(right.roll(1, 3), masks)
    assert 0 < shifted < basnet_loss(right.roll(3, 3), masks)


@proves(NAME, "property")
def test_outputs_add_up_and_images_are_exchangeable(generator):
    logits, masks = torch.randn(3, 4, 8, 12, generator=generator), torch.rand(3, 1, 8, 12, generator=generator) > 0.5
    each = sum(basnet_loss(logits[:, k : k + 1], masks) for k in range(4))
    torch.testing.assert_close(basnet_loss(logits, masks), each)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(basnet_loss(logits[order], masks[order]), basnet_loss(logits, masks))
    torch.testing.assert_close(basnet_loss(logits.flip(3), masks.flip(3)), basnet_loss(logits, masks))
    assert torch.equal(basnet_loss(logits, masks), basnet_loss(logits, masks.float()))
    alone = torch.stack([basnet_loss(logits[b : b + 1], masks[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(alone.mean(), basnet_loss(logits, masks))


@proves(NAME, "property")
def test_no_gradient_reaches_the_mask(generator):
    logits = torch.randn(2, 2, 8, 8, generator=generator, requires_grad=True)
    masks = torch.rand(2, 1, 8, 8, generator=generator, requires_grad=True)
    basnet_loss(logits, masks).backward()
    assert masks.grad is None
    assert logits.grad.isfinite().all()
    far = torch.full((1, 1, 8, 8), -1e4, requires_grad=True)  # a sigmoid that is 0 to the bit
    basnet_loss(far, torch.zeros(1, 1, 8, 8)).backward()
    assert far.grad.isfinite().all()


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"basnet_loss: got masks \[2, 1, 4, 5\] with width=5; expected width=4 as in logits"):
        basnet_loss(torch.zeros(2, 8, 4, 4), torch.zeros(2, 1, 4, 5))
    with pytest.raises(TypeError, match="basnet_loss: got masks of dtype torch.uint8; expected a floating dtype"):
        basnet_loss(torch.zeros(2, 8, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
