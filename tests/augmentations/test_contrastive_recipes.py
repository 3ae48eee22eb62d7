"""The recipes of MoCo v2 and NNCLR are the papers' chains."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.augmentations import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    MultiCrop,
    RandomResizedCrop,
    moco_v2,
    nnclr,
    simclr,
    supervised,
)
from sslkit.testing import proves

MOCO, NNCLR = "augmentations.moco_v2", "augmentations.nnclr"


@proves(MOCO, "loop")
def test_moco_flips_last():
    crop = RandomResizedCrop(224, scale=(0.2, 1.0), interpolation="bilinear")
    view = Compose(crop, ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(0.2), GaussianBlur(p=0.5), HorizontalFlip(0.5))
    assert moco_v2(224) == MultiCrop((view, view))
    assert moco_v2(224, crop_only=True) == MultiCrop((Compose(crop, HorizontalFlip(0.5)),) * 2)
    plain = moco_v2((32, 40), scale=(0.4, 1), jitter_p=0, grayscale=0, blur=0, flip=0, interpolation="bicubic").views[0]
    assert plain == Compose(RandomResizedCrop((32, 40), scale=(0.4, 1), interpolation="bicubic"))


@proves(NNCLR, "loop")
def test_nnclr_takes_the_views_of_simclr():
    crop = RandomResizedCrop(224, scale=(0.08, 1.0), interpolation="bicubic")
    colours = [ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), Grayscale(0.2), GaussianBlur(p=0.5)]
    view = Compose(crop, HorizontalFlip(0.5), *colours)
    assert nnclr(224) == MultiCrop((view, view)) == simclr(224)
    assert nnclr(224, crop_only=True) == MultiCrop((Compose(crop, HorizontalFlip(0.5)),) * 2)
    options = {"scale": (0.4, 1), "jitter": (0.4, 0.4, 0.4, 0.5), "jitter_p": 0.5, "grayscale": 0.1, "blur": 0.0, "flip": 0.0,
               "interpolation": "bilinear"}  # fmt: skip
    assert nnclr(32, **options) == simclr(32, **options)
    assert nnclr(32, **options) != nnclr(32)


@proves(NNCLR, "loop")
def test_local_views_of_nnclr_are_smaller_crops_after_the_two_large_ones():
    views = nnclr(224, None, 6, scale=(0.14, 1.0)).views
    local = simclr(96, scale=(0.05, 0.14)).views[0]
    assert views == (*nnclr(224, scale=(0.14, 1.0)).views, *[local] * 6)
    assert nnclr((32, 48), (8, 12), 1, local_scale=(0.1, 0.3), crop_only=True).views[2] == supervised((8, 12), scale=(0.1, 0.3))
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    two, six = (nnclr(28, None, n)(images, indices=torch.arange(2), seed=0, epoch=1) for n in (0, 4))
    assert [tuple(view.shape[-2:]) for view in six] == [(28, 28)] * 2 + [(12, 12)] * 4
    assert all(torch.equal(a, b) for a, b in zip(two, six[:2], strict=True))


@proves(MOCO, "property")
@proves(NNCLR, "property")
@pytest.mark.parametrize("recipe", [moco_v2, nnclr])
@pytest.mark.parametrize("crop_only", [False, True])
@given(size=st.integers(1, 24), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_views_are_two_in_range_and_belong_to_the_sample(recipe, crop_only, size, batch, seed):
    images = torch.rand(batch, 3, 20, 27, generator=torch.Generator().manual_seed(seed))
    views = recipe(size, crop_only=crop_only)(images, indices=torch.arange(batch), seed=seed, epoch=1)
    assert [tuple(view.shape) for view in views] == [(batch, 3, size, size)] * 2
    assert all(view.min() >= 0 and view.max() <= 1 + 1e-6 for view in views)  # a blur's weights sum to 1 up to rounding
    alone = recipe(size, crop_only=crop_only)(images[-1:], indices=torch.tensor([batch - 1]), seed=seed, epoch=1)
    for view, one in zip(views, alone, strict=True):
        torch.testing.assert_close(view[-1:], one)


@proves(MOCO, "errors")
@proves(NNCLR, "errors")
@pytest.mark.parametrize("recipe", [moco_v2, nnclr])
def test_wrong_options(recipe):
    with pytest.raises(ValueError, match="HorizontalFlip: got p=2"):
        recipe(32, flip=2)
    with pytest.raises(ValueError, match="RandomResizedCrop: got size"):
        recipe(0)


@proves(NNCLR, "errors")
def test_a_wrong_number_of_local_views():
    with pytest.raises(ValueError, match="nnclr: got local_views=-1; expected a whole number from 0 on. To mend: pass 0"):
        nnclr(32, None, -1)
