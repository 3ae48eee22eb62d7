"""HOG against the official numbers, a loop with exact integers, and every gradient that levels can have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.hogs import cells, levels, proof, smooth, versions

from sslkit.kernels import hog
from sslkit.kernels._hog import cpu, reference
from sslkit.losses import masked_mse
from sslkit.maskers import TokenMask


@proof("golden")
@versions
def test_slowfast(golden, backend):
    """Equal in every cell whose official value does not hang on a rounding; in the others a histogram of unit length, or zeros."""
    g = golden("slowfast_hog")
    cases = [name.removesuffix("_meta") for name in g if name.endswith("_meta")]
    assert cases
    for case in cases:
        bins, cell, window = g[f"{case}_meta"].tolist()
        images = g.tensor(f"{case}_x" if f"{case}_x" in g else f"{case}_u8")
        got, safe = cells(images, cell, bins=bins, window=window or None, backend=backend), g.tensor(f"{case}_cell_safe").bool()
        expected = g.tensor(f"{case}_hog")
        torch.testing.assert_close(got.movedim(2, -1)[safe], expected.movedim(2, -1)[safe], rtol=0, atol=1e-5)
        norm = got.norm(dim=2)
        assert ((norm - 1).abs().lt(1e-6) | norm.eq(0)).all()
        if images.dtype == torch.uint8 and bins == 9:
            assert safe.all()
        if f"{case}_gkern" in g:
            like = torch.empty(0)
            torch.testing.assert_close(reference.gaussian(window, window, window, like), g.tensor(f"{case}_gkern"), rtol=0, atol=1e-8)


@proof("golden")
@versions
def test_mmpretrain(golden, backend):
    g = golden("mmpretrain_hog")
    for case in ("g16_112", "g16_224"):
        bins, cell, window = g[f"{case}_meta"].tolist()
        images, expected = g.tensor(f"{case}_u8"), g.tensor(f"{case}_hog")
        patch = cell * math.isqrt(expected.shape[2] // (images.shape[1] * bins))
        ids = g.tensor(f"{case}_rows")[None] if f"{case}_rows" in g else None
        got = hog(images, cell=cell, bins=bins, window=window, ids=ids, patch=patch, backend=backend)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@proof("golden")
@versions
def test_maskfeat(golden, backend):
    """Targets of hidden tokens and the loss, of pictures and of clips; the two ways to say that every second frame counts."""
    g = golden("maskfeat_targets")
    images, mask = g.tensor("i_u8"), g.tensor("i_outmask").bool()
    everything = hog(images, backend=backend)
    torch.testing.assert_close(everything, g.tensor("i_hog_all"), rtol=0, atol=1e-5)
    torch.testing.assert_close(masked_mse(g.tensor("i_pred"), everything[mask], None), g.tensor("i_loss"), rtol=1e-5, atol=0)
    clips, mask = g.tensor("v_u8"), g.tensor("v_outmask").bool()
    for options in ({"tubelet": 2}, {"frame_stride": 2}):
        hidden = hog(clips, ids=TokenMask(mask, (2, 4, 4)).ids_hidden, backend=backend, **options).flatten(0, 1)
        torch.testing.assert_close(hidden, g.tensor("v_hog_masked"), rtol=0, atol=1e-5)
        torch.testing.assert_close(masked_mse(g.tensor("v_pred"), hidden, None), g.tensor("v_loss"), rtol=1e-5, atol=0)


def one_token(image, bins, cell, patch, row, column, window):
    """The values of the token at (row, column) of levels [channels, height, width], pixel by pixel, with Python's own numbers."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    side, values = patch // cell, []

    def at(c, y, x):
        y, x = abs(y), abs(x)
        return image[c][y if y < height else 2 * height - 2 - y][x if x < width else 2 * width - 2 - x]

    for c in range(channels):
        hists = {}
        for y in range(row * patch, (row + 1) * patch):
            for x in range(column * patch, (column + 1) * patch):
                gx = sum(w * (at(c, y + r, x - 1) - at(c, y + r, x + 1)) for w, r in zip((1, 2, 1), (-1, 0, 1), strict=True))
                gy = sum(w * (at(c, y - 1, x + r) - at(c, y + 1, x + r)) for w, r in zip((1, 2, 1), (-1, 0, 1), strict=True))
                weight = 1.0
                if window:
                    middle, deviation = (window - 1) / 2, window // 2
                    weight = math.exp(-((y % window - middle) ** 2 + (x % window - middle) ** 2) / (2 * deviation**2))
                place = (y - row * patch) // cell, (x - column * patch) // cell
                hist = hists.setdefault(place, [0.0] * bins)
                hist[math.floor(bins * math.atan2(gx, gy) / math.pi) % bins] += weight * math.hypot(gx, gy)
        values += [hists[y, x][k] / max(math.hypot(*hists[y, x]), 1e-12) for k in range(bins) for y in range(side) for x in range(side)]
    return values


@proof("loop", "property")
@settings(max_examples=30)
@given(grid=st.tuples(st.integers(1, 2), st.integers(1, 2)), cell=st.integers(1, 4), side=st.integers(1, 2), bins=st.integers(1, 13),
       rest=st.tuples(st.integers(0, 2), st.integers(0, 2)), channels=st.integers(1, 2), window=st.sampled_from([None, None, 2, 5]),
       high=st.sampled_from([2, 4, 256]), seed=st.integers(0, 99), backend=st.sampled_from(["auto", "reference"]))  # fmt: skip
def test_equals_a_loop(grid, cell, side, bins, rest, channels, window, high, seed, backend):
    patch = cell * side
    size = [max(g * patch + min(r, patch - 1), 2) for g, r in zip(grid, rest, strict=True)]
    images = levels(2, channels, *size, seed=seed, high=high)  # few levels: flat parts and gradients on the limits of even bins
    got = hog(images, cell=cell, bins=bins, window=window, patch=patch, backend=backend)
    across = size[1] // patch
    assert got.shape == (2, size[0] // patch * across, channels * bins * side**2)
    assert got.dtype == torch.float32
    for b, image in enumerate(images.tolist()):
        for n, values in enumerate(got[b]):
            expected = torch.tensor(one_token(image, bins, cell, patch, n // across, n % across, window))
            torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)


def bins_by_angle(gx, gy, bins):
    return (bins * torch.atan2(gx.double(), gy.double()) / math.pi).floor().long() % bins


def bins_on_a_cpu(gx, gy, bins):
    """The place each magnitude goes to, from cells of one pixel."""
    gx, gy = gx[None].float(), gy[None].float()
    return cpu.histogram(gx.clone(), gy.clone(), None, cpu.numbers(gx, 1), 1, bins)[0].argmax(dim=0)


def test_every_gradient_of_levels_has_the_bin_of_its_angle():
    """All (gx, gy) with a length in [-1020, 1020]^2, 4 165 680 of them, for both forms."""
    across = torch.arange(-1020, 1021)
    for gy in across.split(157):
        gx, gy = torch.meshgrid(across, gy, indexing="ij")
        some = (gx != 0) | (gy != 0)
        exact = bins_by_angle(gx, gy, 9)[some]
        assert torch.equal(reference.bin_of(gx.float(), gy.float(), 9).long()[some], exact)
        assert torch.equal(bins_on_a_cpu(gx, gy, 9)[some], exact)


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 18, 36])
def test_gradients_on_a_limit_belong_to_the_bin_above_it(bins):
    """With even bins gy = 0 is a limit, with multiples of 4 the diagonals are; half a turn further is the same bin."""
    gx, gy = torch.meshgrid(torch.arange(-64, 65), torch.arange(-64, 65), indexing="ij")
    some = (gx != 0) | (gy != 0)
    exact = bins_by_angle(gx, gy, bins)
    assert torch.equal(exact[some], exact.flip(0, 1)[some])
    assert torch.equal(reference.bin_of(gx.float(), gy.float(), bins).long()[some], exact[some])
    assert torch.equal(bins_on_a_cpu(gx, gy, bins)[some], exact[some])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [9, 12])
def test_the_cpu_form_puts_every_pixel_of_any_floats_into_the_definitions_bin(dtype, bins):
    """Cells of one pixel, so that an exact comparison shows each bin; also where rounding decides, as after a normalisation."""
    noise = torch.randn(1, 2, 64, 48, generator=torch.Generator().manual_seed(0), dtype=dtype)
    photo = (smooth(1, 2, 64, 48).to(dtype) / 255 - 0.456) / 0.224
    for images in (noise, photo, photo * 1e-6, noise.round(), -0.0 * noise):
        both = [cells(images, 1, bins=bins, backend=backend) for backend in ("auto", "reference")]
        assert torch.equal(both[0].argmax(dim=2), both[1].argmax(dim=2))
        torch.testing.assert_close(*both, rtol=0, atol=2e-7)


def test_the_cpu_form_equals_the_definition_in_blocks_of_any_size(monkeypatch):
    images = smooth(2, 3, 50, 70)
    for window in (None, 5):
        expected = hog(images, cell=4, patch=8, window=window, backend="reference")
        for pixels in (1, 300, 3000, 10**6):
            monkeypatch.setattr(cpu, "PIXELS", pixels)
            torch.testing.assert_close(hog(images, cell=4, patch=8, window=window), expected, rtol=0, atol=1e-6)
