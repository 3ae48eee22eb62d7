"""MultiCrop and the recipes made of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.augmentations import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    MultiCrop,
    RandomResizedCrop,
    simclr,
    supervised,
)
from sslkit.testing import proves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@proves("augmentations.MultiCrop", "loop")
def test_views_are_those_of_the_augmentations_at_their_own_slots():
    images = torch.rand(6, 3, 30, 40, generator=seeded())
    large, small = RandomResizedCrop(16), Compose(RandomResizedCrop((8, 12), scale=(0.05, 0.4)), HorizontalFlip())
    many = MultiCrop((large, large, small))
    indices = torch.tensor([5, 6, 7, 100, 2**40, 0])
    got = many(images, indices=indices, seed=1, epoch=4)
    offset = 0
    for view, out in zip(many.views, got, strict=True):
        parameters = view.sample(6, (30, 40), indices=indices, seed=1, epoch=4, offset=offset)
        assert torch.equal(view.apply(images, parameters), out)
        offset += view.slots
    assert many.slots == offset
    assert not torch.equal(got[0], got[1])
    assert [tuple(view.shape) for view in got] == [(6, 3, 16, 16), (6, 3, 16, 16), (6, 3, 8, 12)]


def test_a_further_view_changes_no_earlier_one():
    crop = RandomResizedCrop(8)
    two, three = (MultiCrop([crop] * n).sample(4, (9, 9), indices=torch.arange(4), seed=0) for n in (2, 3))
    assert all(torch.equal(two[key], three[key]) for key in two)


@proves("augmentations.MultiCrop", "property")
@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 4), batch=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_one_view_per_augmentation_and_one_row_per_sample(count, batch, seed):
    many = MultiCrop([supervised(6)] * count)
    parameters = many.sample(batch, (9, 7), generator=seeded(seed))
    assert len(parameters) == 5 * count
    assert all(len(value) == batch for value in parameters.values())
    assert [tuple(view.shape) for view in many.apply(torch.rand(batch, 2, 9, 7), parameters)] == [(batch, 2, 6, 6)] * count


@proves("augmentations.MultiCrop", "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"MultiCrop: got no views; expected one augmentation per view. To mend: "):
        MultiCrop(())
    with pytest.raises(TypeError, match=r"MultiCrop: got a view of type int; expected .* To mend: wrap a chain"):
        MultiCrop((3,))


@proves("augmentations.simclr", "loop")
def test_simclr_is_the_papers_chain():
    view = Compose(
        RandomResizedCrop(224, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic"),
        HorizontalFlip(0.5),
        ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        Grayscale(0.2),
        GaussianBlur(sigma=(0.1, 2.0), kernel=None, p=0.5),
    )
    assert simclr(224) == MultiCrop((view, view))
    assert simclr(224).views[0].ops[4]._radius(224) == 11  # 23 taps
    assert simclr(8, strength=0.5).views[0].ops[2] == ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)


@proves("augmentations.supervised", "loop")
def test_options_leave_parts_out():
    assert simclr(8, crop_only=True).views[0] == supervised(8) == Compose(RandomResizedCrop(8), HorizontalFlip(0.5))
    small = simclr(32, scale=(0.4, 1), jitter=(0.4, 0.4, 0.4, 0.5), blur=0).views[0]
    assert [op.name for op in small.ops] == ["crop", "flip", "jitter", "grayscale"]
    assert [op.name for op in simclr(8, flip=0, jitter_p=0, grayscale=0, blur=0).views[0].ops] == ["crop"]


@proves("augmentations.simclr", "property")
@proves("augmentations.supervised", "property")
@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(2, 24), st.integers(2, 24)), seed=st.integers(0, 2**31))
def test_recipes_take_sizes_that_are_no_squares(size, seed):
    images = torch.rand(2, 3, 15, 11, generator=seeded())
    for view in [*simclr(size)(images, generator=seeded(seed)), supervised(size)(images, generator=seeded(seed))]:
        assert view.shape == (2, 3, *size)


@proves("augmentations.simclr", "errors")
@proves("augmentations.supervised", "errors")
def test_recipe_errors():
    with pytest.raises(ValueError, match=r"simclr: got strength=0.5 and jitter=.*; expected one of the two. To mend: "):
        simclr(8, strength=0.5, jitter=(0.4, 0.4, 0.4, 0.1))
    for recipe in (simclr, supervised):
        with pytest.raises(ValueError, match=r"RandomResizedCrop: got size=0"):
            recipe(0)
        with pytest.raises(ValueError, match=r"HorizontalFlip: got p=3"):
            recipe(8, flip=3)
