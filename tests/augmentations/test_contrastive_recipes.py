"""The recipes of MoCo v2, NNCLR and LooC are the papers' chains."""

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
    LeaveOneOut,
    MultiCrop,
    QuarterTurn,
    RandomResizedCrop,
    RandomTexture,
    looc,
    moco_v2,
    nnclr,
    simclr,
    supervised,
)
from sslkit.testing import proves

MOCO, NNCLR, LOOC = (f"augmentations.{name}" for name in ("moco_v2", "nnclr", "looc"))


def grey(u, size):
    return u[:, :1, None, None].expand(-1, -1, *size)


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


@proves(LOOC, "loop")
def test_looc_turns_first_and_has_the_views_of_moco():
    turn, texture = QuarterTurn((1, 2, 3)), RandomTexture(grey)
    cut = RandomResizedCrop(224, scale=(0.2, 1.0), interpolation="bilinear"), HorizontalFlip(0.5)
    jitter, decolour, blur = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(0.2), GaussianBlur(p=0.5)
    assert looc(224) == LeaveOneOut((turn, *cut, jitter, decolour, blur), ((3, 4), (0,)))
    assert looc(224, ()) == LeaveOneOut((*cut, jitter, decolour, blur))
    both = looc(224, ("texture", "rotation"), texture=texture, turns=(0, 2), blur=0)
    assert both == LeaveOneOut((QuarterTurn((0, 2)), *cut, texture, jitter, decolour), ((3,), (0,)))
    options = {"scale": (0.4, 1), "jitter": (0.8, 0.8, 0.8, 0.5), "jitter_p": 1, "grayscale": 0.1, "flip": 0, "interpolation": "bicubic"}
    first, second = (op for op in moco_v2((32, 40), **options).views[0].ops if isinstance(op, (RandomResizedCrop, ColorJitter)))
    assert looc((32, 40), ("color",), **options).ops == (first, HorizontalFlip(0), second, Grayscale(0.1), blur)


@proves(LOOC, "property")
@given(names=st.permutations(["color", "rotation", "texture"]), count=st.integers(0, 3), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_looc_has_a_key_for_each_augmentation_and_views_belong_to_the_sample(names, count, batch, seed):
    names = names[:count]
    views = looc(8, names, texture=RandomTexture(grey) if "texture" in names else None)
    assert views.shared == tuple(range(count + 1))
    drawn = views.sample(batch, (12, 12), indices=torch.arange(batch), seed=seed, epoch=1)
    words = {"color": {"jitter", "grayscale"}, "rotation": {"turn"}, "texture": {"texture"}}
    for view, name in enumerate(names, 2):  # view 0 is the query, view 1 the key that shares nothing
        copied = {key for key in drawn if key.startswith(f"view{view}.") and key.split(".")[2] in words[name]}
        assert {key.split(".")[2] for key in copied} == words[name]
        assert all(torch.equal(drawn[key], drawn[key.replace(f"view{view}", "view0")]) for key in copied)
        crop = f"view{view}.{[type(op) for op in views.ops].index(RandomResizedCrop)}.crop.top"
        assert batch < 3 or not torch.equal(drawn[crop], drawn[crop.replace(f"view{view}", "view0")])
    images = torch.rand(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    whole = views(images, indices=torch.arange(batch), seed=seed, epoch=1)
    alone = views(images[-1:], indices=torch.tensor([batch - 1]), seed=seed, epoch=1)
    for view, one in zip(whole, alone, strict=True):
        assert view.shape == (batch, 3, 8, 8)
        torch.testing.assert_close(view[-1:], one)


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
@proves(LOOC, "errors")
@pytest.mark.parametrize("recipe", [moco_v2, nnclr, looc])
def test_wrong_options(recipe):
    with pytest.raises(ValueError, match="HorizontalFlip: got p=2"):
        recipe(32, flip=2)
    with pytest.raises(ValueError, match="RandomResizedCrop: got size"):
        recipe(0)


@proves(NNCLR, "errors")
def test_a_wrong_number_of_local_views():
    with pytest.raises(ValueError, match="nnclr: got local_views=-1; expected a whole number from 0 on. To mend: pass 0"):
        nnclr(32, None, -1)


@proves(LOOC, "errors")
def test_wrong_augmentations_of_looc():
    for names in ("color", ("blur",), ("color", "color")):
        with pytest.raises(ValueError, match="looc: got augmentations=.*; expected some of .*, each once. To mend: pass"):
            looc(32, names)
    for names, texture in ((("texture",), None), (("color",), RandomTexture(grey))):
        with pytest.raises(ValueError, match='looc: got augmentations=.* with texture=.*; expected both "texture" and what it is'):
            looc(32, names, texture=texture)
