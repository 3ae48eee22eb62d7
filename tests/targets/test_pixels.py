"""Standardised pixels against the official numbers and a loop; edges; orders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.patches import patchify
from sslkit.targets import normalized_pixels, unnormalized_pixels
from sslkit.testing import proves

NAME = "targets.normalized_pixels"


@proves(NAME, "golden")
def test_official_target(golden):
    g = golden("mae_patchify_loss")
    cases = [name.removesuffix("_imgs") for name in g if name.endswith("_imgs")]
    assert cases
    for case in cases:
        images, patch = g.tensor(f"{case}_imgs"), g.number(f"{case}_p")
        assert torch.equal(patchify(images, patch), g.tensor(f"{case}_patches"))
        torch.testing.assert_close(normalized_pixels(images, patch), g.tensor(f"{case}_target_norm1"), rtol=0, atol=1e-4)


@proves(NAME, "golden")
def test_official_target_of_maskfeat(golden):
    """Of pictures channel by channel, as a convolution orders them; of clips pixel by pixel, of every second frame or of all."""
    g, standard = golden("maskfeat_targets"), {"mean": (0.45,) * 3, "std": (0.225,) * 3}
    for clip, name, options in [("i", "i_pix_norm", {"order": "cpq"}), ("v", "v_pix_stride_norm", {"frame_stride": 2}),
                                ("v", "v_pix_full_norm", {"tubelet": 2})]:  # fmt: skip
        expected = g.tensor(name)  # the first hidden tokens
        got = normalized_pixels(g.tensor(f"{clip}_u8"), 16, **options, **standard)[g.tensor(f"{clip}_outmask", torch.bool)]
        torch.testing.assert_close(got[: len(expected)], expected, rtol=0, atol=1e-5)


@proves(NAME, "loop", "property")
@given(grid=st.tuples(st.integers(1, 3), st.integers(1, 3)), patch=st.integers(1, 4), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_a_loop(grid, patch, channels, seed):
    images = torch.rand(2, channels, grid[0] * patch, grid[1] * patch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = normalized_pixels(images, patch)
    for b, tokens in enumerate(patchify(images, patch)):
        for n, v in enumerate(tokens):
            expected = (v - v.mean()) / (v.var() + 1e-6).sqrt() if len(v) > 1 else torch.zeros_like(v)
            torch.testing.assert_close(got[b, n], expected)


@proves(NAME, "property")
def test_levels_floats_and_channel_statistics_tell_one_story(generator):
    levels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_hand = (levels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalized_pixels(levels, 4, mean=mean, std=std), normalized_pixels(by_hand, 4))
    assert torch.equal(normalized_pixels(levels, 4), normalized_pixels(levels.float() / 255, 4))
    assert (normalized_pixels(torch.full((1, 3, 4, 4), 0.7), 4).abs() < 1e-3).all()  # flat: rounding over 1e-3, not over 0


@proves(NAME, "property")
def test_clips_and_orders(generator):
    clips = torch.rand(1, 3, 8, 4, 6, generator=generator)
    strided = normalized_pixels(clips, 2, tubelet=2, frame_stride=2)
    assert torch.equal(strided, normalized_pixels(clips[:, :, ::2], 2, tubelet=2))
    other = normalized_pixels(clips, 2, tubelet=2, order="cpq")
    reordered = other.view(1, -1, 3, 2, 2, 2).permute(0, 1, 3, 4, 5, 2).flatten(2)
    torch.testing.assert_close(reordered, normalized_pixels(clips, 2, tubelet=2))


@proves(NAME, "property")
@pytest.mark.parametrize("order", ["pqc", "cpq"])
@pytest.mark.parametrize("kind", ["uint8", "float64", "float16"])
def test_some_tokens_are_rows_of_all_whatever_stands_in_the_others(kind, order, generator):
    clips = torch.rand(2, 3, 8, 4, 6, generator=generator, dtype=torch.float64)
    clips = (clips * 255).to(torch.uint8) if kind == "uint8" else clips.to(getattr(torch, kind))
    options = {"tubelet": 2, "frame_stride": 2, "order": order, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.5)}
    ids = torch.tensor([[5, 0, 2], [1, 1, 11]])
    rows = normalized_pixels(clips, 2, **options).gather(1, ids[..., None].expand(-1, -1, 24))
    torch.testing.assert_close(normalized_pixels(clips, 2, **options, ids=ids), rows, rtol=0, atol=1e-4)
    if kind == "float64":
        clips[:, :, 4:, :2, :2] = torch.nan  # token 6 of both, which nobody asked for
        torch.testing.assert_close(normalized_pixels(clips, 2, **options, ids=ids), rows, rtol=0, atol=1e-12)
    assert normalized_pixels(clips, 2, **options, ids=ids[:, :0]).shape == (2, 0, 24)


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_images_are_standardised_in_float32(dtype, generator):
    images = torch.rand(1, 3, 8, 8, generator=generator).to(dtype)
    assert torch.equal(normalized_pixels(images, 4), normalized_pixels(images.float(), 4))


@proves(NAME, "errors")
def test_errors():
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="height=8; expected a positive multiple of 3"):
        normalized_pixels(images, 3)
    with pytest.raises(ValueError, match="normalized_pixels: got std of 2 numbers; expected 3, one a channel. To mend"):
        normalized_pixels(images, 4, std=(1, 1))
    with pytest.raises(IndexError):
        normalized_pixels(images, 4, ids=torch.tensor([[4]]))


BACK = "targets.unnormalized_pixels"


@proves(BACK, "loop", "property")
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch=st.integers(2, 4),
    order=st.sampled_from(["pqc", "cpq"]),
    statistics=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_way_back_ends_at_the_pixels(grid, patch, order, statistics, seed):
    images = torch.rand(2, 3, grid[0] * patch, grid[1] * patch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    options = {"order": order, **({"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.5)} if statistics else {})}
    target = normalized_pixels(images, patch, **options)
    back = unnormalized_pixels(target, images, patch, **options)
    torch.testing.assert_close(back, patchify(images, patch, order=order), rtol=0, atol=1e-12)
    levels = (images * 255).to(torch.uint8)
    back = unnormalized_pixels(normalized_pixels(levels, patch, **options), levels, patch, **options)
    torch.testing.assert_close(back, patchify(levels, patch, order=order) / 255, rtol=0, atol=1e-5)
    flat = unnormalized_pixels(torch.zeros_like(target), images, patch, order=order)  # a prediction of 0 is the mean of the token
    torch.testing.assert_close(flat, patchify(images, patch, order=order).mean(dim=-1, keepdim=True).expand_as(flat))


@proves(BACK, "property")
def test_the_way_back_of_clips(generator):
    clips = torch.rand(1, 3, 8, 4, 6, generator=generator)
    options = {"tubelet": 2, "frame_stride": 2, "order": "cpq", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.5)}
    back = unnormalized_pixels(normalized_pixels(clips, 2, **options), clips, 2, **options)
    torch.testing.assert_close(back, patchify(clips, 2, tubelet=2, frame_stride=2, order="cpq"), rtol=0, atol=1e-5)


@proves(BACK, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_predictions_come_back_in_float32(dtype, generator):
    images = torch.rand(1, 3, 8, 8, generator=generator)
    narrow = normalized_pixels(images, 4).to(dtype)
    assert torch.equal(unnormalized_pixels(narrow, images, 4), unnormalized_pixels(narrow.float(), images, 4))


@proves(BACK, "errors")
def test_errors_of_the_way_back():
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"got prediction \[1, 4, 47\]; expected \[1, 4, 48\], as the images give. To mend"):
        unnormalized_pixels(torch.zeros(1, 4, 47), images, 4)
    with pytest.raises(ValueError, match="unnormalized_pixels: got mean of 2 numbers; expected 3"):
        unnormalized_pixels(torch.zeros(1, 4, 48), images, 4, mean=(0, 0))
