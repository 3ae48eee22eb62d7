"""Position tables: MAE's numbers, every resampling formula as a loop and as torch's own interpolation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.backbones.positions import RESAMPLE, resample_positions, sincos_positions
from sslkit.testing import proves

NAME = "backbones.ViT"


@proves(NAME, "golden")
@proves("backbones.MAE", "golden")
def test_sincos_golden(golden):
    official = golden("mae_posembed")
    for case in ("c0", "c1", "c2"):
        dim, side, prefix = official[f"{case}_meta"].tolist()
        torch.testing.assert_close(sincos_positions((side, side), dim, prefix=prefix), official.tensor(f"{case}_pos"), rtol=0, atol=1e-12)
    expected = official.tensor("ns_pos")
    got = sincos_positions(tuple(official["ns_hw"].tolist()), expected.shape[1])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    have, want = official["interp_grids"].tolist()
    table, expected = official.tensor("interp_in"), official.tensor("interp_out")
    torch.testing.assert_close(expected[:, :1], table[:, :1])
    got = resample_positions(table[:, 1:], (have, have), (want, want), "size")
    torch.testing.assert_close(got, expected[:, 1:], rtol=0, atol=1e-5)


@proves(NAME, "golden")
def test_resampling_golden(golden):
    official = golden("dino_vit_interp")
    modes = {"dino": "offset", "dinov2_offset": "offset", "size_noaa": "size", "dinov2_reg": "antialias", "timm": "antialias"}
    for name, array in official.items():
        case, kind, *size = name.split("/")
        if not size:
            continue
        table = official.tensor(f"{case}/pos_embed")[:, 1:]
        side = math.isqrt(table.shape[1])
        grid = tuple(map(int, size[0].split("x")))
        got = resample_positions(table, (side, side), grid, modes[kind])
        torch.testing.assert_close(got, torch.as_tensor(array)[:, 1:], rtol=0, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def cubic(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def axis_by_loop(values, want, mode):
    """One axis of the published formulas, place by place, tap by tap, in Python numbers."""
    have, out = len(values), []
    for d in range(want):
        if mode == "align_corners":
            x = d * (have - 1) / (want - 1) if want > 1 else 0.0
        else:
            s = have / (want + 0.1 if mode == "offset" else want)
            x = (d + 0.5) * s - 0.5
        if mode == "antialias":
            weights = [cubic((j - x) / max(s, 1), -0.5) for j in range(have)]
            out.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        else:
            taps = range(math.floor(x) - 1, math.floor(x) + 3)
            out.append(sum(cubic(x - j, -0.75) * values[min(max(j, 0), have - 1)] for j in taps))
    return out


@proves(NAME, "loop")
@pytest.mark.parametrize("mode", RESAMPLE)
def test_resampling_equals_the_formula_in_a_loop(mode, generator):
    for base, grid in [((3, 4), (5, 2)), ((4, 4), (4, 7)), ((1, 3), (4, 1)), ((2, 3, 2), (3, 3, 5)), ((5,), (3,)), ((7, 7), (3, 3))]:
        table = torch.randn(*base, dtype=torch.float64, generator=generator)
        expected = table
        for axis, want in enumerate(grid):
            if base[axis] != want or mode == "offset":
                rows = expected.movedim(axis, -1).reshape(-1, base[axis]).tolist()
                shape = expected.movedim(axis, -1).shape[:-1]
                expected = torch.tensor([axis_by_loop(r, want, mode) for r in rows], dtype=torch.float64).view(*shape, want)
                expected = expected.movedim(-1, axis)
        got = resample_positions(table.reshape(-1, 1), base, grid, mode)
        torch.testing.assert_close(got.view(grid), expected, rtol=1e-10, atol=1e-10)


@proves(NAME, "loop")
@pytest.mark.parametrize("mode", RESAMPLE)
@pytest.mark.parametrize(("base", "grid"), [((14, 14), (6, 6)), ((14, 14), (10, 19)), ((4, 6), (9, 3))])
def test_resampling_equals_torch(mode, base, grid, generator):
    table = torch.randn(math.prod(base), 8, generator=generator)
    image = table.T.reshape(1, 8, *base)
    scale = [(n + 0.1) / m for n, m in zip(grid, base, strict=True)]
    options = {
        "size": {"size": grid},
        "offset": {"scale_factor": scale},
        "antialias": {"size": grid, "antialias": True},
        "align_corners": {"size": grid, "align_corners": True},
    }[mode]
    expected = functional.interpolate(image, mode="bicubic", **options).flatten(2)[0].T
    torch.testing.assert_close(resample_positions(table, base, grid, mode), expected, rtol=0, atol=2e-5)


sides = st.lists(st.integers(1, 9), min_size=2, max_size=2).map(tuple)


@proves(NAME, "property")
@given(base=sides, grid=sides, mode=st.sampled_from(RESAMPLE), constant=st.floats(-3, 3))
def test_a_constant_field_stays_constant_and_the_same_grid_is_the_identity(base, grid, mode, constant):
    table = torch.full((math.prod(base), 2), constant, dtype=torch.float64)
    got = resample_positions(table, base, grid, mode)
    torch.testing.assert_close(got, torch.full_like(got, constant), rtol=1e-9, atol=1e-9)
    ramp = torch.arange(math.prod(base) * 2, dtype=torch.float32).view(-1, 2)
    assert resample_positions(ramp, base, base, mode) is ramp


@proves(NAME, "property")
@given(base=sides, grid=sides, mode=st.sampled_from(("size", "antialias", "align_corners")), seed=st.integers(0, 99))
def test_resampling_commutes_with_transposition_and_flips(base, grid, mode, seed):
    table = torch.randn(*base, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def read(x, base, grid):
        return resample_positions(x.reshape(-1, 3), base, grid, mode).view(*grid, 3)

    expected = read(table, base, grid)
    torch.testing.assert_close(read(table.transpose(0, 1), base[::-1], grid[::-1]).transpose(0, 1), expected)
    if mode != "align_corners" or grid[0] > 1:
        torch.testing.assert_close(read(table.flip(0), base, grid).flip(0), expected)


@proves(NAME, "property")
@given(h=st.integers(1, 9), w=st.integers(1, 9), k=st.integers(1, 6))
def test_sincos_halves(h, w, k):
    """The first half knows the column, the second the row; every row has the same length; transposing the grid swaps the halves."""
    dim = 4 * k
    table = sincos_positions((h, w), dim, prefix=2)
    assert table[:2].abs().sum() == 0
    grid = table[2:].view(h, w, dim)
    torch.testing.assert_close(grid.square().sum(dim=-1), torch.full((h, w), dim / 2, dtype=torch.float64))
    assert torch.equal(grid[:, :, : dim // 2], grid[:1, :, : dim // 2].expand(h, -1, -1))
    assert torch.equal(grid[:, :, dim // 2 :], grid[:, :1, dim // 2 :].expand(-1, w, -1))
    other = sincos_positions((w, h), dim).view(w, h, dim).transpose(0, 1)
    assert torch.equal(torch.cat([other[..., dim // 2 :], other[..., : dim // 2]], dim=-1), grid)


@proves(NAME, "loop")
def test_sincos_of_clips_number_by_number():
    t, h, w, dim = 2, 3, 4, 32
    table = sincos_positions((t, h, w), dim).view(t, h, w, dim)
    for a, i, j in [(0, 0, 0), (1, 2, 3), (1, 0, 2)]:
        expected = []
        for x, size in ((a, 8), (j, 12), (i, 12)):
            angles = [x * 10000 ** (-n / (size / 2)) for n in range(size // 2)]
            expected += [math.sin(v) for v in angles] + [math.cos(v) for v in angles]
        torch.testing.assert_close(table[a, i, j], torch.tensor(expected, dtype=torch.float64))


@proves(NAME, "half")
def test_resampling_computes_in_float32(generator):
    table = torch.randn(16, 4, generator=generator).bfloat16()
    wide = resample_positions(table.double(), (4, 4), (6, 3), "antialias")
    got = resample_positions(table, (4, 4), (6, 3), "antialias")
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, wide.float().bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        under = resample_positions(table.float(), (4, 4), (6, 3), "antialias")
    torch.testing.assert_close(under.double(), wide, rtol=0, atol=2e-6)


@proves(NAME, "gradcheck")
@pytest.mark.parametrize("mode", RESAMPLE)
def test_resampling_gradient(mode, generator):
    table = torch.randn(6, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample_positions(x, (2, 3), (4, 2), mode), table)


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(
        ValueError, match=r"resample_positions: got mode='bicubic'; expected one of 'size', 'offset', .* To mend: use the one"
    ):
        resample_positions(torch.zeros(4, 2), (2, 2), (3, 3), "bicubic")
    with pytest.raises(
        ValueError, match=r"resample_positions: got table \[5, 2\], base \(2, 2\), grid \(3, 3\); .* To mend: take the prefix"
    ):
        resample_positions(torch.zeros(5, 2), (2, 2), (3, 3))
    with pytest.raises(ValueError, match=r"sincos_positions: got dim=6 for grid \(2, 2\); expected a multiple of 4"):
        sincos_positions((2, 2), 6)
    with pytest.raises(ValueError, match=r"sincos_positions: got dim=24 for grid \(2, 2, 2\); expected .*, of 16 for \(t, h, w\)"):
        sincos_positions((2, 2, 2), 24)
