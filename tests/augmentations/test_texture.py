"""Random textures: the loop, what is flat and what is an outline, hues, bounds, real textures, pickling."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.augmentations import ImageBackgrounds, LeaveOneOut, RandomTexture
from sslkit.datasets import Scenes
from sslkit.testing import pickles, proves

NAME = "augmentations.RandomTexture"


def noise(u, size):
    """A texture for each row of u, a function of that row."""
    return torch.stack([torch.rand(3, *size, generator=torch.Generator().manual_seed(int(2**30 * row[0]))) for row in u])


def draw(batch, amount):
    return {"textured": torch.ones(batch, dtype=torch.bool), "amount": torch.full((batch,), float(amount)),
            "texture": torch.rand(batch, 3, generator=torch.Generator().manual_seed(1))}  # fmt: skip


@proves(NAME, "loop")
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    radius=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_equals_the_loop_over_pixels_and_windows(height, width, radius, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, channels, height, width, generator=generator, dtype=torch.float64)
    op = RandomTexture(noise, radius=radius, edge=0.2, p=0.5)
    parameters = op.sample(2, (height, width), generator=generator)
    got = op.apply(images, parameters)

    def window(x, i, j):
        return x[..., max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1].flatten(-2)

    for b, x in enumerate(images):
        if not parameters["textured"][b]:
            assert torch.equal(got[b], x)
            continue
        a, offset = torch.empty(height, width, dtype=torch.float64), torch.empty_like(x)
        for i in range(height):
            for j in range(width):
                seen = window(x, i, j)
                variance = seen.var(dim=1, correction=0).mean()
                a[i, j] = variance / (variance + 0.2**2)
                offset[:, i, j] = (1 - a[i, j]) * seen.mean(dim=1)
        texture = noise(parameters["texture"][b : b + 1], (height, width))[0].double()
        grey = 0.2989 * texture[0] + 0.587 * texture[1] + 0.114 * texture[2]
        smooth = torch.empty_like(x)
        for i in range(height):
            for j in range(width):
                smooth[:, i, j] = window(a, i, j).mean() * x[:, i, j] + window(offset, i, j).mean(dim=1)
        expected = (smooth + parameters["amount"][b] * (grey - grey.mean())).clamp(0, 1)
        torch.testing.assert_close(got[b], expected, rtol=0, atol=1e-7)


@proves(NAME, "property")
def test_fine_and_faint_goes_outlines_stay_and_hues_do_not_move(generator):
    op, one = RandomTexture(noise, radius=3, edge=0.1), draw(4, 0)
    faint = 0.5 + 0.02 * (torch.rand(4, 3, 24, 24, generator=generator) - 0.5)
    assert op.apply(faint, one).std() < 0.2 * faint.std()
    step = torch.zeros(4, 3, 24, 24)
    step[..., 12:] = 1.0
    assert (op.apply(step, one) - step).abs().max() < 0.06  # variance 1/4 beside 1/100
    assert torch.equal(op.apply(torch.full((4, 3, 24, 24), 0.25), one), torch.full((4, 3, 24, 24), 0.25))
    images = 0.4 + 0.2 * torch.rand(4, 3, 24, 24, generator=generator)
    plain, laid = op.apply(images, one), op.apply(images, draw(4, 0.3))
    assert (laid - plain).std() > 0.02
    for a, b in ((0, 1), (1, 2)):  # what is laid over is grey: the differences of channels, and so the hue, stay
        torch.testing.assert_close(laid[:, a] - laid[:, b], plain[:, a] - plain[:, b], rtol=0, atol=1e-6)
    torch.testing.assert_close(laid.mean(dim=(2, 3)), plain.mean(dim=(2, 3)))  # and so does the mean


@proves(NAME, "property")
def test_amounts_are_uniform_up_to_the_strength_and_half_are_textured():
    op = RandomTexture(noise, strength=0.8, p=0.5)
    parameters = op.sample(4000, (8, 8), generator=torch.Generator().manual_seed(0))
    counts = (parameters["amount"] / 0.8 * 8).long().bincount(minlength=8)
    assert len(counts) == 8
    assert (counts - 500).abs().max() < 100
    assert abs(parameters["textured"].float().mean() - 0.5) < 0.04


@proves(NAME, "property")
def test_a_space_of_its_own_shares_the_texture_and_nothing_else(generator):
    """On flat pictures the view is the texture: query and the key of the space agree, key 0 has another."""
    scenes = Scenes("train", 32)
    op = RandomTexture(ImageBackgrounds(scenes.backgrounds(range(64))), strength=1.0)
    query, zero, one = LeaveOneOut((op,), ((0,),))(torch.full((64, 3, 32, 32), 0.5), generator=generator)
    assert torch.equal(query, one)
    assert (query == zero).flatten(1).all(dim=1).sum() == 0
    assert query.std(dim=(1, 2, 3)).mean() > 0.02
    assert (query - query[:, :1]).abs().max() < 1e-6


@proves(NAME, "pickle")
def test_pickles_with_its_pictures():
    op = RandomTexture(ImageBackgrounds(torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))))
    pickles(partial(op, indices=torch.arange(2), seed=0), (torch.rand(2, 3, 8, 8),))


@proves(NAME, "errors")
def test_errors():
    for options, text in (({"p": 1.5}, "got p=1.5"), ({"strength": -1}, "got strength=-1; expected a number from 0 on"),
                          ({"radius": 0}, "got radius=0"), ({"edge": 0}, "got edge=0")):  # fmt: skip
        with pytest.raises(ValueError, match=f"RandomTexture: {text}"):
            RandomTexture(noise, **options)
    with pytest.raises(TypeError, match=r"RandomTexture: got textures of type str; expected a callable \(u, size\) -> images"):
        RandomTexture("stripes")
    for shape in ((2, 3, 4, 5), (1, 3, 4, 4), (2, 2, 4, 4), (2, 4, 4)):
        with pytest.raises(ValueError, match=r"RandomTexture: got textures \[.*\]; expected \[2, 1 or 3, 4, 4\]"):
            RandomTexture(lambda u, size, shape=shape: torch.zeros(shape))(torch.zeros(2, 3, 4, 4))
