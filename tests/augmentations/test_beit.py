"""One box at two sizes, and BEiT's views made of it: the authors' boxes and pixels."""

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.augmentations.test_crop import boxes, seeded

from sslkit.augmentations import ColorJitter, Compose, HorizontalFlip, Normalize, PairedCrop, RandomResizedCrop, beit
from sslkit.schedules import cosine
from sslkit.testing import proves

TWO = "augmentations.PairedCrop"
BEIT = "augmentations.beit"


def recorded(draws):
    """The uniforms [1, 22] of the authors' draws: area and log-aspect of each attempt, then the place."""
    unit = [(value - low + kind / 2) / (high - low + kind) for kind, low, high, value in draws]  # of an integer, its middle
    attempts = len(unit) // 2 - 1
    u = torch.zeros(1, 22, dtype=torch.float64)
    u[0, :attempts], u[0, 10 : 10 + attempts] = torch.tensor(unit[:-2:2]), torch.tensor(unit[1:-2:2])
    u[0, 20], u[0, 21] = unit[-2:]
    return u


@proves(TWO, "golden")
@proves(BEIT, "golden")
@pytest.mark.parametrize("k", [0, 1, 2])
def test_boxes_and_pixels_of_the_authors(golden, k):
    g = golden("beit_transforms")
    image = g.tensor("two_img").permute(2, 0, 1)[None]
    views = beit(32, jitter=0, flip=0)
    assert views == PairedCrop(Compose(HorizontalFlip(0)), (RandomResizedCrop(32), RandomResizedCrop(16, interpolation="lanczos")))
    parameters = views.parameters(torch.cat([torch.ones(1, 1), recorded(g[f"two{k}_draws"])], dim=1), (60, 80))
    (box,) = boxes(parameters, 60, 80)
    assert box == g[f"two{k}_ijhw"].tolist()
    for name, view, kernel in zip(("big", "small"), views.apply(image, parameters), ("BICUBIC", "LANCZOS"), strict=True):
        want = g.tensor(f"two{k}_{name}", torch.int32)
        assert (view[0].permute(1, 2, 0).int() - want).abs().max() <= 1  # Pillow rounds twice
        top, left, height, width = box
        cut = Image.fromarray(g["two_img"]).crop((left, top, left + width, top + height))
        by_pillow = np.asarray(cut.resize(view.shape[:-3:-1], getattr(Image.Resampling, kernel))).astype(int)
        # the box is all that Pillow needs for the authors' levels; another version may round otherwise
        assert np.abs(by_pillow - want.numpy()).max() <= (0 if PIL.__version__ == g["pillow_version"] else 1)


def test_the_authors_schedule(golden):
    g = golden("beit_transforms")
    base, final, epochs, each, _, start, warmup = g["cos_args"].tolist()
    steps = int(epochs * each)
    ours = [cosine(step, base=base, final=final, steps=steps, warmup=int(warmup), start=start) for step in range(steps)]
    np.testing.assert_allclose(ours, g["cos_values"], rtol=0, atol=1e-12)


@proves(TWO, "loop")
def test_each_view_is_the_box_of_the_changed_image():
    images = torch.rand(5, 3, 30, 40, generator=seeded())
    before, large, small = Compose(ColorJitter(0.4, 0.4), HorizontalFlip()), RandomResizedCrop(16), RandomResizedCrop((8, 9))
    views = PairedCrop(before, (large, small))
    indices = torch.tensor([5, 6, 7, 100, 2**40])
    got = views(images, indices=indices, seed=1, epoch=4)
    changed = before(images, indices=indices, seed=1, epoch=4)
    box = large.sample(5, (30, 40), indices=indices, seed=1, epoch=4, offset=before.slots)
    for crop, view in zip((large, small), got, strict=True):
        assert torch.equal(crop.apply(changed, box), view)
    assert views.slots == before.slots + large.slots
    assert set(views.sample(5, (30, 40), generator=seeded())) == set(views.keys)


@proves(BEIT, "loop")
def test_beit_is_the_papers_chain():
    jitter = ColorJitter(0.4, 0.4, 0.4)
    views = beit(224)
    assert views.before == Compose(jitter, HorizontalFlip(0.5))
    crop = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    assert views.crops == (RandomResizedCrop(224, **crop, interpolation="bicubic"), RandomResizedCrop(112, **crop, interpolation="lanczos"))
    assert views.before.sample(4, (9, 9), generator=seeded())["0.jitter.jittered"].all()
    assert beit((48, 32), 64).crops[1].size == (64, 64)
    assert beit((48, 32)).crops[1].size == (24, 16)


@proves(TWO, "property")
@proves(BEIT, "property")
@settings(max_examples=20)
@given(height=st.integers(8, 40), width=st.integers(8, 40), seed=st.integers(0, 2**31))
def test_both_views_show_the_same_part_mirrored_and_coloured_alike(height, width, seed):
    """A picture linear in both coordinates: a view's slopes and mean tell its box, flip and colours; both views tell the same."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    plane = (0.3 + 0.2 * x[None, :] + 0.1 * y[:, None]).expand(4, 3, -1, -1).contiguous()
    options = {"interpolation": "bilinear", "token_interpolation": "bilinear"}
    pair = beit(24, 12, scale=(0.3, 1.0), jitter=0.2, **options)(plane, generator=seeded(seed))
    means = [view.mean(dim=(2, 3)) for view in pair]
    torch.testing.assert_close(*means, rtol=0, atol=0.01)
    # per view: the step from one inner third to the other, along both axes; the borders are averages of half a kernel
    across = [view[..., n // 3 : -n // 3].mean(dim=2).diff(dim=-1).mean(dim=-1) * n for view, n in zip(pair, (24, 12), strict=True)]
    down = [view[..., n // 3 : -n // 3, :].mean(dim=3).diff(dim=-1).mean(dim=-1) * n for view, n in zip(pair, (24, 12), strict=True)]
    torch.testing.assert_close(*across, rtol=0, atol=0.04)
    torch.testing.assert_close(*down, rtol=0, atol=0.04)
    assert (across[0].abs() > 0.02).all()  # a flip would change the sign, and be seen


@proves(TWO, "errors")
def test_errors():
    crop = RandomResizedCrop(8)
    with pytest.raises(TypeError, match=r"PairedCrop: got before with a int; expected Augmentation of this package. To mend: pass"):
        PairedCrop(3, (crop,))
    with pytest.raises(TypeError, match=r"PairedCrop: got crops with a HorizontalFlip; expected RandomResizedCrop"):
        PairedCrop(HorizontalFlip(), (HorizontalFlip(),))
    with pytest.raises(ValueError, match=r"PairedCrop: got crops of \[\]; expected at least one, all of one scale and ratio. To mend"):
        PairedCrop(HorizontalFlip(), ())
    with pytest.raises(ValueError, match=r"got crops of \[\(\(0.08, 1.0\), .*\(\(0.5, 1.0\)"):
        PairedCrop(HorizontalFlip(), (crop, RandomResizedCrop(4, scale=(0.5, 1.0))))
    with pytest.raises(TypeError, match="PairedCrop: got images of type ndarray"):
        beit(8)(np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="Normalize"):
        PairedCrop(Normalize(), (crop,))(torch.zeros(1, 2, 8, 8))


@proves(BEIT, "errors")
def test_recipe_errors():
    for options, message in [
        ({"size": 0}, "RandomResizedCrop: got size=0"),
        ({"size": 1}, "RandomResizedCrop: got size=0"),
        ({"size": 8, "scale": (0.5, 0.1)}, r"got scale=\(0.5, 0.1\)"),
        ({"size": 8, "flip": 2}, "HorizontalFlip: got p=2"),
        ({"size": 8, "jitter": -1}, "ColorJitter: got brightness=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            beit(**options)
    with pytest.raises(ValueError, match="ColorJitter: got images with 1 channels; expected 3"):
        beit(8)(torch.zeros(1, 1, 8, 8))
