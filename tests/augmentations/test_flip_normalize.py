"""The two smallest: HorizontalFlip and Normalize."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from sslkit.augmentations import IMAGENET_MEAN, IMAGENET_STD, Compose, HorizontalFlip, MultiCrop, Normalize
from sslkit.testing import proves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@proves("augmentations.HorizontalFlip", "loop")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_flip_is_bit_exact(dtype):
    images = (torch.rand(40, 2, 5, 7, generator=seeded()) * 255).to(dtype)
    parameters = HorizontalFlip().sample(40, (5, 7), generator=seeded())
    want = [F.horizontal_flip(x) if flipped else x for x, flipped in zip(images, parameters["flipped"], strict=True)]
    assert torch.equal(HorizontalFlip().apply(images, parameters), torch.stack(want))


@proves("augmentations.HorizontalFlip", "property")
@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), seed=st.integers(0, 2**31), width=st.integers(1, 9))
def test_flipping_twice_is_the_identity(p, seed, width):
    flip, images = HorizontalFlip(p), torch.rand(6, 1, 2, width, generator=seeded(seed))
    parameters = flip.sample(6, (2, width), generator=seeded(seed))
    assert torch.equal(flip.apply(flip.apply(images, parameters), parameters), images)


def test_flip_rate():
    flipped = HorizontalFlip(0.3).sample(10000, (1, 1), generator=seeded())["flipped"]
    assert abs(flipped.double().mean() - 0.3) < 4 * (0.3 * 0.7 / 10000) ** 0.5


@proves("augmentations.Normalize", "loop")
def test_normalize_equals_torchvision():
    images = torch.rand(4, 3, 6, 5, generator=seeded())
    torch.testing.assert_close(Normalize()(images), F.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD)), rtol=0, atol=1e-6)


@proves("augmentations.Normalize", "property")
@settings(max_examples=20, deadline=None)
@given(mean=st.floats(-1, 1), std=st.floats(0.1, 2), channels=st.integers(1, 5))
def test_normalize_can_be_undone(mean, std, channels):
    images = torch.rand(2, channels, 3, 3, generator=seeded())
    out = Normalize([mean] * channels, [std] * channels)(images)
    torch.testing.assert_close(out * std + mean, images, rtol=0, atol=1e-5)


@proves("augmentations.HorizontalFlip", "errors")
def test_flip_errors():
    with pytest.raises(ValueError, match=r"HorizontalFlip: got p=1.1; expected a probability p in \[0, 1\]. To mend: "):
        HorizontalFlip(1.1)
    with pytest.raises(ValueError, match=r"HorizontalFlip: got images \[3, 4, 4\], 3 axes; expected .* To mend: add a batch axis"):
        HorizontalFlip()(torch.rand(3, 4, 4))
    with pytest.raises(TypeError, match=r"got images of dtype torch.int64; expected uint8"):
        HorizontalFlip()(torch.zeros(1, 3, 4, 4, dtype=torch.long))


@proves("augmentations.Normalize", "errors")
def test_normalize_errors():
    picture = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    for augmentation in (Normalize(), Compose(HorizontalFlip(), Normalize()), MultiCrop((Compose(Normalize()),))):
        with pytest.raises(TypeError, match=r"got uint8 images; expected floating images.* To mend: pass images.float"):
            augmentation(picture)
    with pytest.raises(ValueError, match=r"got 1 means and 2 stds; expected .* To mend: "):
        Normalize((0.5,), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"std=0"):
        Normalize((0.5,), (0,))
    with pytest.raises(ValueError, match=r"got images with 1 channels; expected 3, the length of mean and std. To mend: "):
        Normalize()(torch.rand(1, 1, 4, 4))
