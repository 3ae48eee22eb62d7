"""DINO's recipe is the paper's chain."""

import pytest
import torch

from sslkit.augmentations import ColorJitter, Compose, GaussianBlur, Grayscale, HorizontalFlip, RandomResizedCrop, Solarize, dino
from sslkit.testing import proves

NAME = "augmentations.dino"


@proves(NAME, "loop")
def test_the_papers_chain():
    colours = [ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), Grayscale(0.2)]
    large = [RandomResizedCrop(224, scale=(0.4, 1.0), interpolation="bicubic"), HorizontalFlip(0.5), *colours]
    small = Compose(RandomResizedCrop(96, scale=(0.05, 0.4), interpolation="bicubic"), HorizontalFlip(0.5), *colours, GaussianBlur(p=0.5))
    first, second, *rest = dino(224).views
    assert first == Compose(*large, GaussianBlur(p=1.0))
    assert second == Compose(*large, GaussianBlur(p=0.1), Solarize(0.2))
    assert rest == [small] * 8
    assert len(dino(224, local_views=0, scale=(0.14, 1)).views) == 2
    for view in dino(224, pillow=True).views:
        assert view.ops[0].rounded
        assert view.ops[4].pillow
    plain = dino((32, 40), None, 1, jitter_p=0, grayscale=0, blur=(0, 0, 0), solarize=0, flip=0)
    assert [[op.name for op in view.ops] for view in plain.views] == [["crop"]] * 3
    assert plain.views[2].ops[0] == RandomResizedCrop((14, 17), scale=(0.05, 0.4), interpolation="bicubic")


@proves(NAME, "property")
def test_views_of_both_sizes_belong_to_the_sample(generator):
    images = torch.rand(3, 3, 40, 32, generator=generator)
    views = dino(28, local_views=3)(images, indices=torch.arange(3), seed=0, epoch=1)
    assert [tuple(view.shape) for view in views] == [(3, 3, 28, 28)] * 2 + [(3, 3, 12, 12)] * 3
    alone = dino(28, local_views=3)(images[1:2], indices=torch.tensor([1]), seed=0, epoch=1)
    for view, one in zip(views, alone, strict=True):
        torch.testing.assert_close(view[1:2], one)
    fewer = dino(28, local_views=1)(images, indices=torch.arange(3), seed=0, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(fewer, views[:3], strict=True))  # a view more changes no earlier one
    assert (views[2] - views[3]).abs().max() > 0.01


@proves(NAME, "errors")
def test_wrong_input():
    with pytest.raises(ValueError, match="dino: got local_views=-1; expected a whole number from 0 on"):
        dino(32, local_views=-1)
    with pytest.raises(ValueError, match="HorizontalFlip: got p=2"):
        dino(32, flip=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_large_pictures_are_cropped_one_by_one_and_then_go_on_together(dtype):
    images = torch.rand(5, 3, 400, 380, generator=torch.Generator().manual_seed(0))
    images = images if dtype == torch.float32 else images.mul(255).round().to(dtype)
    floats = images if dtype == torch.float32 else images.float() / 255
    for view in dino(48, 32, 1).views:
        drawn = view.sample(5, (400, 380), generator=torch.Generator().manual_seed(1))
        crop, *others = view.ops
        want = crop.apply(floats, {key.removeprefix("0.crop."): value for key, value in drawn.items() if key.startswith("0.")})
        moved = {f"{int(key.split('.')[0]) - 1}.{key.split('.', 1)[1]}": value for key, value in drawn.items() if not key.startswith("0.")}
        want = Compose(*others).apply(want, moved)
        want = want if dtype == torch.float32 else want.mul(255)
        got = view.apply(images, drawn)
        torch.testing.assert_close(got.to(want), want, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.501)
