"""The HOG kernel equals its definition: every gradient's bin, every size, layout and dtype; and it reads no more than it is asked for."""

import math

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.kernels.fused.conftest import INTERPRETED
from tests.kernels.hogs import cells, levels, smooth

from sslkit.kernels import Choice, explain, hog, use_backend
from sslkit.kernels._hog import reference
from sslkit.kernels._hog.fused import _add, _bins, in_words
from sslkit.maskers import TokenMask

TYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32]
fixtures = HealthCheck.function_scoped_fixture


def same(got, expected, tolerance=2e-6):
    """Any pixel in another bin would move far more than this, and none where a bin is empty."""
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance, equal_nan=True)
    assert torch.equal(got == 0, expected == 0)


def both(images, **options):
    return [hog(images, backend=backend, **options) for backend in ("fused", "reference")]


def photo(levels, dtype):
    """Levels as they are, or normalised, where rounding decides; in this dtype."""
    return levels if dtype == torch.uint8 else ((levels.float() / 255 - 0.456) / 0.224).to(dtype)


@settings(max_examples=25, suppress_health_check=[fixtures])
@given(dtype=st.sampled_from(TYPES), channels=st.sampled_from([1, 3, 4]), patch=st.sampled_from([8, 16, 32]),
       grid=st.tuples(st.integers(1, 2), st.integers(1, 2)), rest=st.tuples(st.integers(0, 7), st.sampled_from([0, 1, 2, 4, 7])),
       clip=st.sampled_from([None, None, (3, 1, 1), (5, 2, 1), (4, 1, 2), (7, 2, 3)]), window=st.sampled_from([None, None, 16, 5]),
       id_type=st.sampled_from([None, torch.int32, torch.int64]), high=st.sampled_from([2, 256]), seed=st.integers(0, 99))  # fmt: skip
@example(dtype=torch.uint8, channels=3, patch=24, grid=(1, 2), rest=(0, 0), clip=None, window=16, id_type=torch.int64, high=256, seed=0)
def test_equals_the_reference(device, dtype, channels, patch, grid, rest, clip, window, id_type, high, seed):
    """Sizes on and off the patches', all tokens or some in any order and more than once, flat parts, gradients 0 and on the border."""
    time, tubelet, stride = clip or (1, 1, 1)
    shape = (1, channels, time, *(side * patch + more for side, more in zip(grid, rest, strict=True)))
    images = photo(levels(*shape, seed=seed, high=high) if seed % 2 else smooth(*shape, seed=seed), dtype).to(device)
    options = {"patch": patch, "window": window, "tubelet": tubelet, "frame_stride": stride}
    if id_type is not None:
        tokens = (time + stride - 1) // stride // tubelet * math.prod(grid)
        options["ids"] = torch.randint(tokens, (1, 3), generator=torch.Generator().manual_seed(seed)).to(device, id_type)
    if clip is None:
        images = images[:, :, 0]
    same(*both(images, **options))


def test_samples_of_a_batch(device):
    """Their own ids, also a view of them; and twice the same call gives the same bits."""
    images = smooth(3, 3, 40, 36).to(device)
    ids = torch.tensor([[3, 0, 1, 2], [1, 1, 1, 0], [2, 3, 2, 0]], device=device)
    for some in (ids, ids[:, ::2], ids[:1, 1:].expand(3, -1), ids[:, :0]):
        same(*both(images, ids=some))
    assert torch.equal(*(hog(images, backend="fused") for _ in range(2)))
    for empty in (images[:0], images[:, :0]):
        assert hog(empty, backend="fused").shape == hog(empty, backend="reference").shape


@triton.jit
def _bins_of(gx, gy, out, count, LIMITS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < count
    zero = tl.zeros([BLOCK], tl.float32)
    none = (zero, zero, zero, zero, zero)
    right, left = _add(none, none, tl.load(gx + i, live, other=0), tl.load(gy + i, live, other=0), zero + 1, LIMITS)
    hist = _bins(right, left)
    code = zero
    for k in tl.static_range(9):
        code += hist[k] * (1 << k)
    tl.store(out + i, code, live)


def bins_of(gx, gy):
    """The sum over the bins k of 2^k times what a pixel of length 1 adds to them: 2^k if it is in one."""
    gx, gy = gx.float().contiguous(), gy.float().contiguous()
    out, block = torch.empty_like(gx), 2**18 if INTERPRETED else 1024
    _bins_of[(triton.cdiv(gx.numel(), block),)](gx, gy, out, gx.numel(), LIMITS=tuple(reference.limits(9)), BLOCK=block)
    return out


def test_every_gradient_of_levels_has_the_definitions_bin(device):
    """All (gx, gy) in [-1020, 1020]^2; then floats, also just on the limits, zeros of both signs, and the ends of their range."""
    across = torch.arange(-1020, 1021, device=device)
    gx, gy = (g.flatten() for g in torch.meshgrid(across, across, indexing="ij"))
    assert torch.equal(bins_of(gx, gy), (1 << reference.bin_of(gx.float(), gy.float(), 9)).float())
    gy = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).to(device)
    for gx in (gy.roll(1), *(gy * sign * limit for limit in reference.limits(9) for sign in (1, -1)), 0 * gy, -0.0 * gy.abs(), 1e30 * gy):
        assert torch.equal(bins_of(gx, gy), (1 << reference.bin_of(gx, gy, 9)).float())
        assert torch.equal(bins_of(gy, gx), (1 << reference.bin_of(gy, gx, 9)).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flat_pictures_are_zero(device, dtype):
    flat = torch.arange(256, device=device).view(256, 1, 1, 1).expand(-1, 1, 8, 8).to(dtype)
    assert hog(flat, patch=8, backend="fused").eq(0).all()


@pytest.mark.parametrize(("window", "size"), [(None, 1e-16), (16, 1e-14)])
def test_faint_pictures(device, window, size):
    """Shorter than 1e-12, a histogram is not brought to unit length, and the window's constant counts."""
    got, expected = both(size * smooth(1, 1, 16, 16).float().to(device), window=window)
    same(got, expected)
    assert all(0.1 < length < 1 for length in expected.view(9, 4).norm(dim=0))


def test_any_dtype_of_the_same_levels_gives_the_same(device):
    images = smooth(1, 3, 32, 40).to(device)
    expected = hog(images, backend="fused")
    for dtype in TYPES[1:]:
        with torch.autocast(device, dtype=torch.bfloat16):
            got = hog(images.to(dtype).requires_grad_(), backend="fused")
        assert torch.equal(got, expected)
        assert (got.dtype, got.requires_grad, got.is_contiguous()) == (torch.float32, False, True)
    same(hog(images.float() / 256, backend="fused"), expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, under the interpreter, at 0 * inf
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_cells(device, value):
    """A NaN gives NaN in all bins, as in the definition; so does an infinity, where the definition may leave a 0 in some of them."""
    images = smooth(1, 1, 48, 48).float().to(device)
    for y, x, broken in [(20, 21, [[2, 2]]), (24, 32, [[2, 3], [2, 4], [3, 3], [3, 4]]), (0, 0, [[0, 0]]), (47, 8, [[5, 0], [5, 1]])]:
        changed = images.clone()
        changed[..., y, x] = value
        got, expected = (cells(changed, backend=backend)[0, 0] for backend in ("fused", "reference"))
        assert got.isnan().all(dim=0).nonzero().tolist() == broken
        assert expected.isnan().any(dim=0).nonzero().tolist() == broken
        if value != value:
            assert got.isnan().any(dim=0).nonzero().tolist() == broken
            assert expected.isnan().all(dim=0).nonzero().tolist() == broken
        same(got[:, ~got.isnan().any(dim=0)], expected[:, ~got.isnan().any(dim=0)])


def test_a_foreign_id_reads_nothing(device):
    """Where the reference would raise, the kernel gives NaN: no memory of others is read, and the mistake is loud."""
    images = smooth(2, 3, 32, 48).to(device)
    ids = torch.tensor([[0, 6, -1], [2**40, 3, -(2**40)]], device=device)
    out, whole = hog(images, ids=ids, backend="fused"), hog(images, backend="fused")
    assert torch.equal(out[0, 0], whole[0, 0])
    assert torch.equal(out[1, 1], whole[1, 3])
    assert out.isnan().all(dim=2).tolist() == [[False, True, True], [True, False, True]]


def test_other_tokens_and_frames_are_not_looked_at(device):
    """All is NaN but the token and the ring of one pixel around it, in the frame that counts."""
    clip = torch.full((1, 1, 4, 48, 48), torch.nan, device=device)
    clip[..., 2, 15:33, 31:48] = smooth(18, 17).float().to(device)
    out = hog(clip, tubelet=2, ids=torch.tensor([[9 + 3 + 2, 9 + 3 + 1]], device=device), backend="fused")
    assert out.isnan().any(dim=2).tolist() == [[False, True]]


VIEWS = {  # view -> whether its rows are words, for uint8 and for float32
    "whole": (lambda x: x, (True, True)),
    "8 in": (lambda x: x[..., 8:40], (True, True)),
    "2 in": (lambda x: x[..., 2:34], (False, True)),
    "3 in": (lambda x: x[..., 3:35], (False, False)),
    "rows": (lambda x: x[..., 5:37, :], (True, True)),
    "every second row": (lambda x: x[..., ::2, :], (True, True)),
    "every second column": (lambda x: x[..., ::2], (False, False)),
    "wide": (lambda x: x[..., :45].contiguous(), (False, False)),
    "wide by two": (lambda x: x[..., :46].contiguous(), (False, True)),
    "columns first": (lambda x: x.mT, (False, False)),
    "channels last": (lambda x: x.contiguous(memory_format=torch.channels_last), (False, False)),
    "one for all": (lambda x: x[:1].expand(2, -1, -1, -1), (True, True)),
}


@pytest.mark.parametrize("view", VIEWS)
def test_layouts(device, view):
    """Words only where every row begins on 8 bytes, which the interpreter would not miss; the numbers are the same to the last bit."""
    take, words = VIEWS[view]
    images = smooth(2, 2, 40, 48).to(device)
    assert tuple(in_words(reference.planes(take(images.to(dtype)), 1)) for dtype in (torch.uint8, torch.float32)) == words
    images, ids = take(images), torch.tensor([[0], [1]], device=device)
    assert torch.equal(hog(images, ids=ids, backend="fused"), hog(images.contiguous(), ids=ids, backend="fused"))


@pytest.mark.parametrize("axis", range(5), ids=["samples", "channels", "frames", "rows", "columns"])
def test_offsets_beyond_two_to_the_31(device, axis):
    """Steps below 2^31 that end beyond it, in memory of which only a few pages are ever touched."""
    memory = torch.empty(2**32, dtype=torch.uint8, device=device)
    shape, strides = [1, 1, 1, 16, 16], [0, 0, 0, 16, 1]
    shape[axis] = max(shape[axis], 3)
    strides[axis] = 2**28 + 64 if axis > 2 else 2**30 + 64
    clip = memory.as_strided(shape, strides)
    clip.copy_(smooth(*shape))
    assert torch.equal(hog(clip, backend="fused"), hog(clip.contiguous(), backend="fused"))


def test_official_numbers(golden, device):
    """slowfast's, mmpretrain's and MaskFeat's, as far as the kernel makes them: 9 bins, cells of 8."""
    g = golden("slowfast_hog")
    cases = [name.removesuffix("_meta") for name in g if name.endswith("_meta") and g[name].tolist()[:2] == [9, 8]]
    assert len(cases) == 6
    for case in cases:
        images, window = g.tensor(f"{case}_x" if f"{case}_x" in g else f"{case}_u8").to(device), g[f"{case}_meta"].tolist()[2]
        safe = g.tensor(f"{case}_cell_safe").bool()
        got = cells(images, window=window or None, backend="fused").movedim(2, -1).cpu()
        torch.testing.assert_close(got[safe], g.tensor(f"{case}_hog").movedim(2, -1)[safe], rtol=0, atol=1e-5)
    g = golden("mmpretrain_hog")
    for case, patch, ids in [("g16_112", 8, None), ("g16_224", 16, g.tensor("g16_224_rows")[None].to(device))]:
        got = hog(g.tensor(f"{case}_u8").to(device), window=16, patch=patch, ids=ids, backend="fused")
        torch.testing.assert_close(got.cpu(), g.tensor(f"{case}_hog"), rtol=0, atol=1e-5)
    g = golden("maskfeat_targets")
    torch.testing.assert_close(hog(g.tensor("i_u8").to(device), backend="fused").cpu(), g.tensor("i_hog_all"), rtol=0, atol=1e-5)
    ids = TokenMask(g.tensor("v_outmask").bool(), (2, 4, 4)).ids_hidden.to(device)
    got = hog(g.tensor("v_u8").to(device), ids=ids, tubelet=2, backend="fused")
    torch.testing.assert_close(got.flatten(0, 1).cpu(), g.tensor("v_hog_masked"), rtol=0, atol=1e-5)


def test_what_cannot_run_says_so(device):
    images = smooth(1, 1, 16, 16).to(device)
    many = images[..., :8, :8].expand(2**31, -1, -1, -1)
    for x, options, message in [
        (images.double(), {}, f"{device} and torch.float64"),
        (images, {"cell": 4}, "cell=4 and bins=9"),
        (images, {"bins": 12}, "cell=8 and bins=12"),
        (many, {"patch": 8}, "2147483648 cells"),
    ]:
        with pytest.raises(ValueError, match=f'hog: got backend="fused", but hog has no fused version for {message}; expected "auto"'):
            hog(x, backend="fused", **options)
    for options in ({"cell": 4}, {"bins": 12}):  # "auto" takes the reference
        assert hog(images, **options).shape == (1, 1, options.get("bins", 9) * (16 // options.get("cell", 8)) ** 2)
    assert hog(images.double()).dtype == torch.float32
    assert explain("hog", images, "fused") == Choice("fused", "asked for by name")
    assert explain("hog", images).version == ("reference" if INTERPRETED else "fused")
    with use_backend("fused"):
        assert torch.equal(hog(images), hog(images, backend="fused"))


def test_registration_is_sound(device, monkeypatch):
    monkeypatch.undo()  # poisoned memory begins at an offset, which opcheck would find
    images, clip = smooth(1, 3, 21, 24).to(device), photo(smooth(1, 1, 3, 16, 16), torch.bfloat16).to(device)
    ids = torch.tensor([[1, 0]], device=device)
    torch.library.opcheck(torch.ops.sslkit.hog.default, (images, ids, 8, 9, None, 8, 1, 1, "fused"))
    torch.library.opcheck(torch.ops.sslkit.hog.default, (clip, None, 8, 9, 16, 16, 1, 2, "fused"))


def test_compiles_for_every_size(device):
    torch.compiler.reset()
    compiled_hog = torch.compile(hog, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in [(1, 3, 21, 24), (2, 3, 16, 40), (1, 2, 3, 16, 16)]:
        images = smooth(*shape).to(device)
        assert torch.equal(compiled_hog(images, backend="fused"), hog(images, backend="fused"))
