"""Copy and paste: Pillow's composites, ends of the map, replay, the loop, backgrounds cut from pictures."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.augmentations import CopyPaste, ImageBackgrounds
from sslkit.testing import pickles, proves

NAME, BANK = "augmentations.CopyPaste", "augmentations.ImageBackgrounds"


def always(**options):
    return CopyPaste(probability=1.0, **options)


def level(grey, batch=1):
    """u whose grey level is `grey` of 255."""
    return torch.full((batch, 3), (grey + 0.5) / 255)


@proves(NAME, "golden")
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_pillow_composites(golden, kind):
    g = golden("dilo_composite")
    image = g.tensor("image").permute(2, 0, 1)[None]
    mask = g.tensor(f"mask_{kind}")[None, None]
    parameters = {"pasted": torch.tensor([True]), "blurred": torch.tensor([False]), "background": level(g.number("gray"))}
    got = always(blend="mix").apply(image, mask, parameters)[0].permute(1, 2, 0)
    assert (got.int() - g.tensor(f"composite_{kind}").int()).abs().max() <= (0 if kind == "hard" else 1)  # .5 exactly may fall either way
    blurred = always()._blurred(mask.float() / 255)[0, 0] * 255
    own = g.tensor(f"mask_{kind}_gauss_sigma5_k31")
    torch.testing.assert_close(blurred, own * (255 if own.max() <= 1 else 1), rtol=0, atol=0.05)
    pillow = g.tensor(f"mask_{kind}_pilblur5").float()
    assert (blurred - pillow).abs().max() < 20  # boxes instead of a Gaussian
    assert (blurred - pillow).abs().mean() < 2


@proves(NAME, "loop", "property")
@given(batch=st.integers(1, 4), side=st.integers(2, 6), blend=st.sampled_from(["none", "gaussian", "mix"]), seed=st.integers(0, 99))
def test_equals_the_loop_over_pixels(batch, side, blend, seed):
    generator = torch.Generator().manual_seed(seed)
    images, mask = torch.rand(batch, 3, side, side, generator=generator), torch.rand(batch, 1, side, side, generator=generator)
    op = CopyPaste(blend=blend, probability=0.5, sigma=0.6)
    parameters = op.sample(batch, generator=generator)
    got = op.apply(images, mask, parameters)
    for b in range(batch):
        if not parameters["pasted"][b]:
            assert torch.equal(got[b], images[b])
            continue
        m = mask[b, 0]
        if parameters["blurred"][b]:
            r = min(2, side - 1)
            w = [pow(2.718281828459045, -((d / 0.6) ** 2) / 2) for d in range(-r, r + 1)]
            padded = functional.pad(mask[b : b + 1], (r, r, r, r), mode="reflect")[0, 0]
            m = sum(w[d] * w[e] * padded[d : d + side, e : e + side] for d in range(2 * r + 1) for e in range(2 * r + 1)) / sum(w) ** 2
        grey = int(255 * parameters["background"][b, 0]) / 255
        torch.testing.assert_close(got[b], m * images[b] + (1 - m) * grey, rtol=0, atol=1e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_object_stays_to_the_bit_the_rest_goes_to_the_bit(dtype, generator):
    images = torch.randint(256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else (images.float() / 255).to(dtype)
    op, one = always(blend="none"), torch.ones(4, 1, 8, 8)
    for mask in (one, one.to(torch.uint8) * 255):
        assert torch.equal(op(images, mask, generator=generator), images)
    gone = op.apply(images, one * 0, op.sample(4, generator=generator))
    assert (gone == gone[:, :1, :1, :1]).all()
    assert torch.equal(CopyPaste(probability=0.0)(images, one * 0, generator=generator), images)


@proves(NAME, "property", "half")
def test_levels_and_floats_agree_and_a_draw_repeats(generator):
    images = torch.randint(256, (8, 3, 12, 10), generator=generator, dtype=torch.uint8)
    mask = torch.randint(256, (8, 1, 12, 10), generator=generator, dtype=torch.uint8)
    op, draw = CopyPaste(probability=0.5, sigma=1.0), {"indices": torch.arange(8), "seed": 3, "epoch": 1}
    parameters = op.sample(8, **draw)
    got = op(images, mask, **draw)
    assert torch.equal(got, op.apply(images, mask, parameters))
    floats = op(images.float() / 255, mask.float() / 255, **draw)
    assert (got.float() / 255 - floats).abs().max() <= 0.5 / 255 + 1e-6
    for dtype in (torch.float16, torch.bfloat16):
        narrow = op((images.float() / 255).to(dtype), mask.float() / 255, **draw)
        assert torch.equal(narrow, op((images.float() / 255).to(dtype).float(), mask.float() / 255, **draw).to(dtype))
    part = op(images[2:5], mask[2:5], indices=torch.arange(2, 5), seed=3, epoch=1)
    assert torch.equal(part, got[2:5])
    assert 0 < parameters["pasted"].sum() < 8


@proves(NAME, "property", "errors")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_result_is_written_where_it_is_wanted_block_by_block(dtype, generator):
    """Also over the images, also where a batch is more than what is blended at once; and gradients flow through."""
    images, mask = torch.rand(7, 3, 300, 300, generator=generator), torch.rand(7, 1, 300, 300, generator=generator)
    images = (255 * images).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    op = CopyPaste(probability=0.5, sigma=1.0)
    parameters = op.sample(7, generator=generator)
    each = [op.apply(images[b : b + 1], mask[b : b + 1], {k: v[b : b + 1] for k, v in parameters.items()}) for b in range(7)]
    own = images.clone()
    assert op.apply(own, mask, parameters, out=own) is own
    assert torch.equal(own, torch.cat(each))
    assert torch.equal(op.apply(images, mask, parameters), own)
    with pytest.raises(ValueError, match=r"CopyPaste: got out \[7, 3, 300, 300\] of torch.float64; expected \[7, 3, 300, 300\] of"):
        op.apply(images, mask, parameters, out=images.double())
    if dtype == torch.float32:
        leaf = images.clone().requires_grad_()
        op.apply(
            leaf, mask, {**parameters, "pasted": parameters["pasted"] | True, "blurred": parameters["pasted"] & False}
        ).sum().backward()
        torch.testing.assert_close(leaf.grad, mask.expand_as(leaf))


@proves(NAME, "compile", "pickle")
def test_compiles_and_pickles(generator):
    images, mask = torch.rand(3, 3, 8, 8, generator=generator), torch.rand(3, 1, 8, 8, generator=generator)
    op = CopyPaste(probability=0.5, sigma=1.0)
    parameters = op.sample(3, generator=generator)
    compiled = torch.compile(op.apply, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, mask, parameters), op.apply(images, mask, parameters))
    pickles(partial(op, indices=torch.arange(3), seed=0), (images, mask))


@proves(BANK, "loop", "property")
@given(n=st.integers(1, 3), have=st.integers(2, 8), height=st.integers(2, 8), width=st.integers(2, 8), seed=st.integers(0, 99))
def test_backgrounds_are_windows_of_pictures_enlarged_where_they_are_too_small(n, have, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    pictures, u = torch.rand(n, 3, have, have + 1, generator=generator), torch.rand(4, 3, generator=generator)
    got = ImageBackgrounds(pictures)(u, (height, width))
    scale = max(height / have, width / (have + 1), 1)
    size = (max(height, round(scale * have)), max(width, round(scale * (have + 1)))) if scale > 1 else (have, have + 1)
    large = functional.interpolate(pictures, size=size, mode="bilinear") if scale > 1 else pictures
    for b in range(4):
        top, left = (int(u[b, i] * (size[i - 1] - wanted + 1)) for i, wanted in ((1, height), (2, width)))
        window = large[int(u[b, 0] * n), :, top : top + height, left : left + width]
        torch.testing.assert_close(got[b], window)
    levels = (pictures * 255).to(torch.uint8)
    torch.testing.assert_close(ImageBackgrounds(levels)(u, (height, width)), ImageBackgrounds(levels.float() / 255)(u, (height, width)))


@proves(BANK, "property", "half", "compile", "pickle")
def test_objects_on_pictures(generator):
    pictures = torch.rand(5, 3, 16, 16, generator=generator)
    op, images = always(backgrounds=ImageBackgrounds(pictures), blend="none"), torch.rand(2, 3, 8, 8, generator=generator)
    gone = op.apply(images, torch.zeros(2, 1, 8, 8), op.sample(2, generator=generator))
    places = pictures.unfold(2, 8, 1).unfold(3, 8, 1)  # [5, 3, 9, 9, 8, 8]
    for picture in gone:
        assert (places == picture[None, :, None, None]).all(dim=(1, 4, 5)).any()
    bank, u = ImageBackgrounds(pictures.half()), torch.rand(2, 3, generator=generator)
    assert torch.equal(bank(u, (8, 8)), ImageBackgrounds(pictures.half().float())(u, (8, 8)))
    compiled = torch.compile(bank, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(u, (8, 8)), bank(u, (8, 8)))
    pickles(partial(bank, size=(8, 8)), (u,))
    assert bank.state_dict() == {}


@proves(NAME, "errors")
@proves(BANK, "errors")
def test_errors():
    for options, text in (({"probability": 1.5}, "got probability=1.5"), ({"blend": "alpha"}, "got blend='alpha'; expected"),
                          ({"backgrounds": "texture"}, "got backgrounds='texture'; expected \"grayscale\" or a callable"),
                          ({"sigma": 0}, "got sigma=0")):  # fmt: skip
        with pytest.raises(ValueError, match=f"CopyPaste: {text}"):
            CopyPaste(**options)
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"CopyPaste: got saliency \[2, 1, 4, 5\] with width=5; expected width=4 as in images"):
        CopyPaste()(images, torch.zeros(2, 1, 4, 5))
    with pytest.raises(TypeError, match="CopyPaste: got images of dtype torch.int64"):
        CopyPaste()(images, torch.zeros(2, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"CopyPaste: got backgrounds \[2, 3, 2, 2\]; expected \[2, 3, 4, 4\], as the images"):
        always(backgrounds=lambda u, size: torch.zeros(2, 3, 2, 2))(images, torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="ImageBackgrounds: got pictures=0"):
        ImageBackgrounds(torch.zeros(0, 3, 4, 4))
