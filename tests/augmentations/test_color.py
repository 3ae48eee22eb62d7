"""Colour against torchvision's and kornia's functional operators, sample by sample."""

import kornia
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torchvision.transforms.v2 import functional as F

from sslkit.augmentations import ColorJitter, Grayscale, Solarize
from sslkit.testing import proves

OPS = ("brightness", "contrast", "saturation", "hue")
ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(images, parameters, ops=range(4)):
    """torchvision's operators on each sample alone, in its own order."""
    out = []
    for b, image in enumerate(images):
        if parameters["jittered"][b]:
            for op in parameters["order"][b].tolist():
                if op in ops:
                    image = ADJUST[op](image, parameters[OPS[op]][b].item())
        out.append(image)
    return torch.stack(out)


@proves("augmentations.ColorJitter", "loop")
@pytest.mark.parametrize(
    "strengths",
    [
        (0.8, 0.8, 0.8, 0.5),
        (0.4, 0.4, 0.2, 0.1),
        (0.4, 0, 0, 0),
        (0, 0.4, 0, 0),
        (0, 0, 0.9, 0),
        (0, 0, 0, 0.5),
        (0.8, 0.8, 0.8, 0),
        (0.8, 0, 0, 0.2),
    ],
)
def test_jitter_equals_torchvision_sample_by_sample(strengths):
    images = torch.rand(60, 3, 9, 13, generator=seeded())
    images[:20] = (images[:20] * 3).round() / 3  # ties between channels, blacks, whites and greys
    jitter = ColorJitter(*strengths, p=0.8)
    parameters = jitter.sample(60, (9, 13), generator=seeded(1))
    # measured 2e-6: the rounding of a few float32 operations, which contrast and saturation can stretch
    torch.testing.assert_close(jitter.apply(images, parameters), one_by_one(images, parameters), rtol=0, atol=1e-5)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hue_equals_kornia(turns):
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    jitter = ColorJitter(hue=(turns, turns) if turns else (-0.1, 0.1))
    parameters = jitter.sample(4, (16, 16), generator=seeded())
    parameters["hue"] = torch.full((4,), turns)
    want = kornia.enhance.adjust_hue(images, turns * 2 * torch.pi)
    torch.testing.assert_close(jitter.apply(images, parameters), want, rtol=0, atol=2e-5)  # kornia's HSV adds 1e-8 to divisors


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_brightness_and_contrast_take_any_number_of_channels(channels):
    images = torch.rand(10, channels, 8, 8, generator=seeded())
    jitter = ColorJitter(0.5, 0.5)
    parameters = jitter.sample(10, (8, 8), generator=seeded())
    for b, image in enumerate(images):
        for op in parameters["order"][b].tolist():
            if op < 2:
                f = parameters[OPS[op]][b]
                image = (f * image + (1 - f) * (image.mean() if op else 0)).clamp(0, 1)
        torch.testing.assert_close(jitter.apply(images, parameters)[b], image, rtol=0, atol=1e-6)


def test_orders_are_uniform_over_the_24_permutations_and_factors_over_their_ranges():
    parameters = ColorJitter(0.4, (0.5, 0.9), 1.5, 0.1, p=0.3).sample(20000, (1, 1), generator=seeded())
    codes = (parameters["order"] * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3
    assert abs(parameters["jittered"].double().mean() - 0.3) < 4 * (0.3 * 0.7 / 20000) ** 0.5
    for op, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.5, 0.9), ("saturation", 0.0, 2.5), ("hue", -0.1, 0.1)):
        assert kstest(parameters[op].double(), "uniform", args=(low, high - low)).pvalue > 1e-3


@proves("augmentations.ColorJitter", "property")
@settings(max_examples=30, deadline=None)
@given(strength=st.floats(0, 1), p=st.floats(0, 1), seed=st.integers(0, 2**31), levels=st.sampled_from([1, 2, 255]))
def test_range_is_kept_and_untouched_samples_are_bit_exact(strength, p, seed, levels):
    images = (torch.rand(6, 3, 5, 7, generator=seeded(seed)) * levels).round() / levels
    jitter = ColorJitter(strength, strength, strength, strength / 2, p=p)
    parameters = jitter.sample(6, (5, 7), generator=seeded(seed))
    out = jitter.apply(images, parameters)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out[~parameters["jittered"]], images[~parameters["jittered"]])


@proves("augmentations.Grayscale", "loop")
def test_grey_equals_torchvision_and_kornia():
    images = torch.rand(20, 3, 6, 7, generator=seeded())
    parameters = Grayscale(p=0.5).sample(20, (6, 7), generator=seeded())
    out = Grayscale(p=0.5).apply(images, parameters)
    want = [F.rgb_to_grayscale(x, 3) if grey else x for x, grey in zip(images, parameters["grey"], strict=True)]
    torch.testing.assert_close(out, torch.stack(want), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        Grayscale(p=1.0)(images)[:, :1], kornia.color.rgb_to_grayscale(images), rtol=0, atol=2e-4
    )  # 0.299, not 0.2989
    assert torch.equal(Grayscale(p=1.0)(images[:, :1]), images[:, :1])


@proves("augmentations.Solarize", "loop")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_solarize_equals_torchvision(dtype):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(8, 3, 1, 1)
    images = images if dtype == torch.uint8 else images.float() / 255
    parameters = Solarize(p=0.5).sample(8, (16, 16), generator=seeded())
    out = Solarize(p=0.5).apply(images, parameters)
    threshold = 128 if dtype == torch.uint8 else 0.5  # Pillow's 128
    want = [F.solarize(x, threshold) if due else x for x, due in zip(images, parameters["solarized"], strict=True)]
    assert torch.equal(out, torch.stack(want))
    assert torch.equal(Solarize(p=1.0, threshold=1.0)(images)[images == images.max()].unique(), images.new_zeros(1))


@proves("augmentations.Grayscale", "property")
@proves("augmentations.Solarize", "property")
@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_twice_grey_is_grey_and_twice_solarized_at_zero_is_the_picture(p, seed):
    images = torch.rand(5, 3, 4, 4, generator=seeded(seed))
    grey = Grayscale(p)
    drawn = grey.sample(5, (4, 4), generator=seeded(seed))
    once = grey.apply(images, drawn)
    torch.testing.assert_close(grey.apply(once, drawn), once, rtol=0, atol=1e-4)  # the three weights sum to 0.9999
    inverting = Solarize(p, threshold=0.0)
    drawn = inverting.sample(5, (4, 4), generator=seeded(seed))
    torch.testing.assert_close(inverting.apply(inverting.apply(images, drawn), drawn), images, rtol=0, atol=1e-6)


@proves("augmentations.ColorJitter", "errors")
def test_jitter_errors():
    with pytest.raises(ValueError, match=r"ColorJitter: got hue=0.6; expected 0..0.5, or \(low, high\). To mend: pass hue=0.2"):
        ColorJitter(hue=0.6)
    for options in ({"brightness": -1}, {"contrast": (2, 1)}, {"hue": (-0.7, 0)}, {"saturation": (-0.1, 1)}):
        with pytest.raises(ValueError, match=r"ColorJitter: got .*; expected .* To mend: "):
            ColorJitter(**options)
    with pytest.raises(ValueError, match=r"got p=1.5; expected a probability p in \[0, 1\]"):
        ColorJitter(p=1.5)
    with pytest.raises(ValueError, match=r"got images with 4 channels; expected 3 .* To mend: pass saturation=0, hue=0"):
        ColorJitter(0.4, 0.4, 0.4)(torch.rand(1, 4, 2, 2))


@proves("augmentations.Grayscale", "errors")
@proves("augmentations.Solarize", "errors")
def test_grey_and_solarize_errors():
    with pytest.raises(ValueError, match=r"Grayscale: got images with 4 channels; expected 3 .* To mend: "):
        Grayscale()(torch.rand(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"Solarize: got threshold=128; expected .* To mend: divide a threshold of 0..255 by 255"):
        Solarize(threshold=128)
    for kind in (Grayscale, Solarize):
        with pytest.raises(ValueError, match=rf"{kind.__name__}: got p=-1; expected .* To mend: "):
            kind(p=-1)
