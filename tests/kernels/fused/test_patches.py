"""The kernel that cuts tokens out of images equals its reference."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from tests.kernels.cuts import MEAN, STD, cuts, pictures, some_ids
from tests.kernels.fused.conftest import INTERPRETED
from tests.kernels.operations import seeded

from sslkit.kernels import explain, gather_patches, use_backend

# One rounding of a product below 5 is the difference; 16 bits round once, but the interpreter cuts bf16 off where GPUs round it.
FLOAT = 5e-7
ULP = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8}
CLIP = {"tubelet": 2, "frame_stride": 2}
BOTH = {"mean": MEAN[:3], "std": STD[:3]}


def pair(images, ids, patch, **options):
    return [gather_patches(images, ids, patch, **options, backend=backend) for backend in ("fused", "reference")]


def same(got, expected, tolerance=0.0):
    assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())
    torch.testing.assert_close(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


def on(device, images, ids):
    return images.to(device), ids.to(device)


large = pictures(1, 2, 34, 68)  # patch 34: 1156 pixels, two programs a token, of which the second is partly filled
strip = pictures(2, 1, 8, 8 * 9)  # patch 8: sixteen tokens a program, the last program partly filled


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=cuts(batches=(0, 3), patches=(1, 9)))
@example(cut=(large, torch.tensor([[1, 0]]), 34, {"order": "cpq"}))
@example(cut=(large, torch.tensor([[1, 1, 0]]), 34, {"order": "pqc"}))
@example(cut=(strip, some_ids(strip, 8, 9), 8, {"order": "cpq"}))
@example(cut=(pictures(1, 3, 14, 28), torch.tensor([[1]]), 14, {"order": "cpq", **BOTH}))
@example(cut=(pictures(1, 3, 32, 64), torch.tensor([[1, 0]]), 32, {"order": "cpq", **BOTH}))
def test_equals_the_reference(device, cut):
    images, ids, patch, options = cut
    plain = images.is_floating_point() and "mean" not in options and "std" not in options
    same(*pair(*on(device, images, ids), patch, **options), 0 if plain else FLOAT if images.dtype == torch.uint8 else 4e-6)


@pytest.mark.parametrize("order", ["cpq", "pqc"])
@pytest.mark.parametrize("dtype", [torch.uint8, *ULP], ids=str)
def test_every_pair_of_dtypes(device, order, dtype):
    for shape, frames in [((2, 3, 16, 32), {}), ((1, 3, 7, 16, 32), CLIP)]:
        images = pictures(*shape, dtype=dtype).to(device)
        ids = some_ids(images, 16, 2, **frames).to(device)
        for out_dtype in (None, *ULP):
            for statistics in ({}, BOTH):
                got, expected = pair(images, ids, 16, **frames, **statistics, order=order, out_dtype=out_dtype)
                same(got, expected, 0 if dtype == out_dtype and not statistics else max(ULP[got.dtype], FLOAT))


@pytest.mark.parametrize("layout", ["channels last", "a crop", "offset by one", "every second", "columns first", "expanded"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_strides(device, dtype, layout):
    """Every layout is read where it is; a misaligned start loses speed, not numbers."""
    base = pictures(2, 3, 24, 72, dtype=dtype).to(device)
    images = {
        "channels last": base[..., :32].contiguous(memory_format=torch.channels_last)[:, :, :16],
        "a crop": base[:, :, 5:21, 3:35],
        "offset by one": base.flatten()[1 : 1 + 2 * 3 * 16 * 32].view(2, 3, 16, 32),
        "every second": base[:, :, 1:17, 1:65:2],
        "columns first": base[:, :, :16, :32].transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": base[:1, :1, :16, :32].expand(2, 3, -1, -1),
    }[layout]
    wide_ids = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]], device=device)
    for patch, order in [(16, "cpq"), (4, "pqc")]:
        for ids in (wide_ids[:, 1:3], wide_ids[:, ::2], wide_ids[:1, :3].expand(2, -1)):
            same(*pair(images, ids, patch, order=order, std=(0.5, 0.25, 1)), FLOAT)


def test_offsets_beyond_two_to_the_31(device):
    """Samples 2^31 + 64 numbers apart, then lines, in memory of which only a few pages are ever touched."""
    memory = torch.empty(2 * (2**31 + 64) + 4096, dtype=torch.uint8, device=device)
    for stride in [(2**31 + 64, 256, 16, 1), (64, 32, 2**29, 1)]:
        images = memory.as_strided((2, 2, 8, 16), stride)
        images.copy_(pictures(2, 2, 8, 16))
        ids = torch.tensor([[1, 0], [0, 1]], device=device)
        got = gather_patches(images, ids, 8, backend="fused")
        same(got, gather_patches(images.clone(memory_format=torch.contiguous_format), ids, 8, backend="reference"), FLOAT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("statistics", [{}, BOTH], ids=["plain", "normalised"])
def test_a_foreign_id_reads_nothing(device, dtype, statistics):
    """Where the reference would raise, the kernel gives NaN: no memory of others is read, and the mistake is loud."""
    images = pictures(2, 3, 8, 12, dtype=dtype).to(device)
    ids = torch.tensor([[0, 6, -1], [2**40, 3, -(2**40)]], device=device)
    for order in ("cpq", "pqc"):
        out = gather_patches(images, ids, 4, order=order, backend="fused", **statistics)
        assert out.isnan().all(dim=2).tolist() == [[False, True, True], [True, False, True]]
        known = gather_patches(images, ids.clamp(0, 5), 4, order=order, backend="reference", **statistics)
        same(out[0, 0], known[0, 0], FLOAT)
        same(out[1, 1], known[1, 1], FLOAT)


def test_hidden_pixels_never_leak(device):
    images = torch.randn(1, 3, 8, 16, generator=seeded()).to(device)
    images[..., :8] = float("nan")
    for patch, ids in [(8, [[1, 1]]), (4, [[2, 3, 6, 7]])]:
        for statistics in ({}, BOTH):
            assert gather_patches(images, torch.tensor(ids, device=device), patch, backend="fused", **statistics).isfinite().all()


def test_what_cannot_run_says_so(device):
    images = pictures(1, 3, 8, 8, dtype=torch.float64).to(device)
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
    for x, options, message in [
        (images, {}, f"no fused version for {device} and torch.float64"),
        (images.float(), {"out_dtype": torch.float64}, "no fused version for torch.float64"),
        (images.float()[:, :1].expand(-1, 65, -1, -1), {}, "no fused version for 65 planes a token"),
        (images.float().requires_grad_(), {}, 'backend="fused" for images that require grad'),
    ]:
        with pytest.raises(ValueError, match=message):
            gather_patches(x, ids, 4, backend="fused", **options)
        gather_patches(x, ids, 4, **options)  # "auto" takes the reference
    with pytest.raises(ValueError, match="no fused version for 2147483648 rows"):
        gather_patches(images.float().expand(2**16, -1, -1, -1), ids.expand(2**16, 2**15), 4, backend="fused")
    with torch.no_grad():
        gather_patches(images.float().requires_grad_(), ids, 4, backend="fused")
    assert explain("gather_patches", images.float(), "fused").version == "fused"
    assert explain("gather_patches", images.float()).version == ("reference" if INTERPRETED else "fused")


def test_compiles(device):
    torch.compiler.reset()
    images, ids = on(device, pictures(2, 3, 8, 12), torch.tensor([[1, 0], [5, 3]]))
    compiled = torch.compile(lambda x, i: gather_patches(x, i, 4, **BOTH), fullgraph=True, backend="aot_eager")
    with use_backend("fused"):
        assert torch.equal(compiled(images, ids), gather_patches(images, ids, 4, **BOTH))
