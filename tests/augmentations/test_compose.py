"""Compose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.augmentations import ColorJitter, Compose, Grayscale, HorizontalFlip, Normalize, RandomResizedCrop
from sslkit.testing import proves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@proves("augmentations.Compose", "loop")
def test_is_its_parts_one_after_the_other():
    images = torch.rand(5, 3, 30, 40, generator=seeded())
    parts = (RandomResizedCrop(16), HorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1), Grayscale(), Normalize())
    chain = Compose(*parts)
    parameters = chain.sample(5, (30, 40), generator=seeded())
    out = images
    for place, part in enumerate(parts):
        prefix = f"{place}.{part.name}."
        out = part.apply(out, {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)})
    torch.testing.assert_close(chain.apply(images, parameters), out, rtol=0, atol=1e-6)


def test_keys_slots_and_forms():
    chain = Compose(RandomResizedCrop(16), HorizontalFlip())
    assert chain.keys == ("0.crop.top", "0.crop.left", "0.crop.height", "0.crop.width", "1.flip.flipped")
    assert chain.slots == 23
    assert chain == Compose((RandomResizedCrop(16), HorizontalFlip())) == Compose([RandomResizedCrop(16), HorizontalFlip()])
    assert Compose(chain).keys[-1] == "0.compose.1.flip.flipped"


def test_a_second_crop_sees_the_size_the_first_one_made():
    parameters = Compose(RandomResizedCrop((8, 40)), RandomResizedCrop(8, scale=(1, 1))).sample(4, (50, 50), generator=seeded())
    # no whole box of an allowed aspect fits into 8 x 40: the central fallback, 11 of 40 columns
    torch.testing.assert_close(parameters["1.crop.width"], torch.full((4,), 11 / 40))


def test_flips_alone_pass_every_dtype_unchanged():
    images = torch.randint(0, 256, (3, 2, 4, 5), dtype=torch.uint8)
    always = Compose(HorizontalFlip(1), HorizontalFlip(0))
    assert always.moves_only
    assert torch.equal(always(images), images.flip(-1))


@proves("augmentations.Compose", "property")
@settings(max_examples=15, deadline=None)
@given(flips=st.lists(st.floats(0, 1), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_flips_add_up(flips, seed):
    images = torch.rand(6, 1, 2, 3, generator=seeded())
    chain = Compose(*(HorizontalFlip(p) for p in flips))
    parameters = chain.sample(6, (2, 3), generator=seeded(seed))
    odd = torch.stack(list(parameters.values())).sum(dim=0) % 2 == 1
    assert torch.equal(chain.apply(images, parameters), torch.where(odd[:, None, None, None], images.flip(-1), images))


@proves("augmentations.Compose", "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"Compose: got nothing; expected at least one augmentation. To mend: "):
        Compose()
    with pytest.raises(TypeError, match=r"Compose: got a function; expected augmentations of this package. To mend: "):
        Compose(lambda x: x)
    with pytest.raises(ValueError, match=r"ColorJitter: got images with 1 channels"):
        Compose(HorizontalFlip(), ColorJitter(hue=0.1))(torch.rand(1, 1, 4, 4))
