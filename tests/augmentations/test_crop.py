"""RandomResizedCrop against torchvision, sample by sample."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from sslkit.augmentations import Compose, RandomResizedCrop
from sslkit.testing import proves


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def boxes(parameters, height, width):
    """Integer (top, left, height, width) of each sample."""
    sides = {"top": height, "left": width, "height": height, "width": width}
    return torch.stack([(parameters[key].double() * n).round() for key, n in sides.items()], dim=1).long().tolist()


@proves("augmentations.RandomResizedCrop", "loop")
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "picture"), [(16, (37, 53)), ((64, 20), (37, 53)), (96, (53, 37)), ((7, 5), (224, 160))])
def test_equals_torchvision_sample_by_sample(size, picture, interpolation, antialias):
    images = torch.rand(12, 3, *picture, generator=seeded())
    crop = RandomResizedCrop(size, interpolation=interpolation, antialias=antialias)
    parameters = crop.sample(12, picture, generator=seeded(1))
    out = crop.apply(images, parameters)
    for image, got, box in zip(images, out, boxes(parameters, *picture), strict=True):
        want = F.resized_crop(image, *box, list(crop.size), InterpolationMode(interpolation), antialias=antialias).clamp(0, 1)
        # measured 4e-6 at most: the centres of the taps are rounded in float32, in torchvision as here
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@proves("augmentations.RandomResizedCrop", "loop")
@pytest.mark.parametrize("size", [16, (64, 20), (7, 50)])
@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
def test_equals_pillow_on_floating_pictures(size, interpolation):
    """torchvision has no Lanczos on tensors."""
    images = torch.rand(6, 1, 37, 53, generator=seeded())
    crop = RandomResizedCrop(size, interpolation=interpolation)
    parameters = crop.sample(6, (37, 53), generator=seeded(1))
    for (image,), (got,), (top, left, height, width) in zip(images, crop.apply(images, parameters), boxes(parameters, 37, 53), strict=True):
        cut = Image.fromarray(image[top : top + height, left : left + width].contiguous().numpy())
        want = torch.from_numpy(np.array(cut.resize(crop.size[::-1], getattr(Image.Resampling, interpolation.upper()))))
        torch.testing.assert_close(got, want.clamp(0, 1), rtol=0, atol=1e-5)  # measured 5e-6


@pytest.mark.parametrize("channels", [1, 2, 12])
def test_any_number_of_channels(channels):
    images = torch.rand(3, channels, 20, 30, generator=seeded())
    crop = RandomResizedCrop((9, 11))
    parameters = crop.sample(3, (20, 30), generator=seeded())
    alone = torch.cat([crop.apply(images[:, c : c + 1], parameters) for c in range(channels)], dim=1)
    torch.testing.assert_close(crop.apply(images, parameters), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("picture", [(100, 140), (300, 60)])
def test_boxes_are_distributed_as_torchvisions(picture):
    draws = 3000
    theirs = v2.RandomResizedCrop(10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(3, *picture)
        rows = [theirs.make_params([image]) for _ in range(draws)]
    theirs_boxes = torch.tensor([[r["top"], r["left"], r["height"], r["width"]] for r in rows]).double()
    ours = torch.tensor(boxes(RandomResizedCrop(10).sample(draws, picture, generator=seeded()), *picture)).double()
    for statistic in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        # ten comparisons at fixed seeds: below 1e-3 one would not be chance
        assert ks_2samp(statistic(ours), statistic(theirs_boxes)).pvalue > 1e-3


def test_boxes_lie_inside_and_keep_to_the_ranges():
    for picture in [(1, 1), (1, 50), (31, 7), (224, 224)]:
        parameters = RandomResizedCrop(8, scale=(0.2, 0.5)).sample(500, picture, generator=seeded())
        for top, left, height, width in boxes(parameters, *picture):
            assert 0 <= top <= picture[0] - height
            assert 0 <= left <= picture[1] - width
            assert height > 0
            assert width > 0


def test_a_picture_too_long_for_every_attempt_gives_the_central_box():
    parameters = RandomResizedCrop(8, scale=(0.9, 1.0)).sample(50, (20, 400), generator=seeded())
    assert boxes(parameters, 20, 400) == [[0, (400 - 27) // 2, 20, 27]] * 50  # round(20 * 4 / 3) = 27


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_whole_picture_at_its_own_size_is_itself(interpolation):
    images = torch.rand(2, 3, 17, 23, generator=seeded())
    whole = {"top": torch.zeros(2), "left": torch.zeros(2), "height": torch.ones(2), "width": torch.ones(2)}
    assert torch.equal(RandomResizedCrop((17, 23), interpolation=interpolation).apply(images, whole), images)


def test_image_and_saliency_map_of_another_size_move_together():
    # a ramp in picture coordinates; after the crop both sizes must show the same part of it
    crop = RandomResizedCrop(16, scale=(0.3, 0.6), interpolation="bilinear")
    parameters = crop.sample(8, (64, 64), generator=seeded())
    ramp = [((torch.arange(n) + 0.5) / n).expand(8, 1, n, n).contiguous() for n in (64, 32)]
    large, small = (crop.apply(r, parameters) for r in ramp)
    torch.testing.assert_close(large[..., 2:-2], small[..., 2:-2], rtol=0, atol=0.01)  # a pixel of the smaller is 0.03


@proves("augmentations.RandomResizedCrop", "property")
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    out=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    antialias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_constant_stays_constant_and_values_stay_in_range(height, width, out, interpolation, antialias, seed):
    crop = RandomResizedCrop(out, interpolation=interpolation, antialias=antialias or interpolation == "lanczos")
    constant = torch.full((3, 2, height, width), 0.3)
    torch.testing.assert_close(crop(constant, generator=seeded(seed)), torch.full((3, 2, *out), 0.3), rtol=0, atol=1e-5)
    result = crop((torch.rand(3, 2, height, width, generator=seeded(seed)) > 0.5).float(), generator=seeded(seed))
    assert result.shape == (3, 2, *out)
    assert result.min() >= 0
    assert result.max() <= 1


@proves("augmentations.RandomResizedCrop", "errors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"RandomResizedCrop: got size=0; expected a positive int or \(height, width\). To mend:"),
        ({"size": (3, 4, 5)}, r"got size=\(3, 4, 5\)"),
        ({"size": 4, "scale": (0.5, 0.1)}, r"got scale=\(0.5, 0.1\); expected 0 < low <= high <= 1"),
        ({"size": 4, "ratio": (0, 1)}, r"got ratio=\(0, 1\)"),
        ({"size": 4, "interpolation": "nearest"}, 'got interpolation=\'nearest\', antialias=True; expected "bicubic" or "bilinear", or'),
        ({"size": 4, "interpolation": "lanczos", "antialias": False}, 'expected "bicubic" or "bilinear", or "lanczos" with antialias'),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**options)


@pytest.mark.parametrize(("interpolation", "antialias"), [("bicubic", True), ("bilinear", True), ("bicubic", False), ("lanczos", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_of_a_large_picture_only_the_box_is_read(interpolation, antialias, dtype):
    """Whole pixels and parts of them, alone and first of a chain: as by the matrices over all pixels, of which most are 0."""
    images = torch.rand(3, 3, 400, 380, generator=seeded(), dtype=torch.float64)
    crop = RandomResizedCrop((31, 40), interpolation=interpolation, antialias=antialias)
    drawn = crop.sample(3, (400, 380), generator=seeded())
    drawn = {key: torch.where(torch.tensor([True, True, False]), value, value * 0.9 + 0.0123) for key, value in drawn.items()}
    want = crop._apply(images, drawn)
    if dtype == torch.uint8:
        images = images.mul(255).round().to(dtype)
        want = crop._apply(images.double() / 255, drawn).mul(255)
    got = [crop.apply(images.to(dtype), drawn), Compose(crop).apply(images.to(dtype), {f"0.crop.{k}": v for k, v in drawn.items()})]
    for result in got:
        torch.testing.assert_close(result.double(), want, rtol=0, atol=0.5 + 255 * 5e-5 if dtype == torch.uint8 else 5e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_rounded_crops_of_large_levels_are_torchvisions(interpolation):
    images = (torch.rand(3, 3, 400, 380, generator=seeded()) * 255).round().to(torch.uint8)
    crop = RandomResizedCrop((31, 40), interpolation=interpolation, rounded=True)
    plain = RandomResizedCrop((31, 40), interpolation=interpolation)
    drawn = crop.sample(3, (400, 380), generator=seeded())
    for got, image, *box in zip(crop.apply(images, drawn), images, *drawn.values(), strict=True):
        pixels = [round(float(x) * side) for x, side in zip(box, (400, 380, 400, 380), strict=True)]
        assert torch.equal(got, F.resized_crop(image, *pixels, [31, 40], InterpolationMode[interpolation.upper()], antialias=True))
    through = {key: value * 0.9 + 0.0123 for key, value in drawn.items()}
    for x, parameters in ((images.float() / 255, drawn), (images, through), (images[:, :, :40, :38], drawn)):  # elsewhere no change
        assert torch.equal(crop.apply(x, parameters), plain.apply(x, parameters))
