"""Cutting tokens out of images against the official numbers, a loop, patchify and a convolution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.cuts import MEAN, STD, by_loop, cuts, pictures, some_ids
from tests.kernels.operations import seeded
from torch.nn import functional

from sslkit.kernels import gather_patches
from sslkit.patches import patchify
from sslkit.targets import normalized_pixels
from sslkit.testing import proves

NAME = "kernels.gather_patches"
both = pytest.mark.parametrize("backend", ["auto", "reference"])
CLIP = {"tubelet": 2, "frame_stride": 2}


@proves(NAME, "golden")
@both
def test_official_values(golden, backend):
    """MAE's patches, in its order; MaskFeat's raw pixels of hidden tokens, in a convolution's."""
    mae, maskfeat = golden("mae_patchify_loss"), golden("maskfeat_targets")
    cases = [name.removesuffix("_imgs") for name in mae if name.endswith("_imgs")]
    assert cases
    for case in cases:
        images, patches = mae.tensor(f"{case}_imgs"), mae.tensor(f"{case}_patches")
        ids = some_ids(images, mae.number(f"{case}_p"), 9)
        got = gather_patches(images, ids, mae.number(f"{case}_p"), order="pqc", backend=backend)
        assert torch.equal(got, torch.stack([row[i] for row, i in zip(patches, ids, strict=True)]))
    hidden, expected = maskfeat.tensor("i_outmask", torch.bool), maskfeat.tensor("i_pix_raw")
    every = torch.arange(16).expand(len(hidden), -1)
    got = gather_patches(maskfeat.tensor("i_u8"), every, 16, std=[1 / 255] * 3, backend=backend)
    assert torch.equal(got[hidden][: len(expected)], expected)


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(cut=cuts(), backend=st.sampled_from(["auto", "reference"]))
def test_equals_a_loop(cut, backend):
    """Images and clips, no batch, nothing kept, all kept; in float32 to the rounding of scale, bias, product and sum, all below 5."""
    images, ids, patch, options = cut
    got, expected = gather_patches(images, ids, patch, **options, backend=backend), by_loop(images, ids, patch, **options)
    assert got.shape == expected.shape
    assert got.is_contiguous()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=4 * 5 * 2**-24 if images.dtype == torch.uint8 else 1e-5)


@proves(NAME, "property")
@both
@pytest.mark.parametrize("order", ["cpq", "pqc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floats_are_those_of_patchify(backend, order, dtype):
    """Bit by bit where nothing is asked for: a copy."""
    for shape, options in [((2, 3, 12, 8), {}), ((2, 3, 7, 12, 8), CLIP)]:
        images = torch.randn(*shape, generator=seeded()).to(dtype)
        images[0, 0, ..., 0] = -0.0
        tokens = patchify(images, 4, order=order, **options)
        ids = torch.tensor([[5, 0, 5], [1, 2, 3]])
        got = gather_patches(images, ids, 4, order=order, backend=backend, **options)
        expected = torch.stack([row[i] for row, i in zip(tokens, ids, strict=True)])
        assert torch.equal(got, expected)
        assert torch.equal(got.signbit(), expected.signbit())


@proves(NAME, "property")
@both
def test_statistics_are_those_of_the_targets(backend):
    """Its values, standardised, are `normalized_pixels` of the same tokens."""
    levels = pictures(2, 3, 12, 8)
    ids, options = some_ids(levels, 4, 3), {"mean": MEAN[:3], "std": STD[:3], "order": "pqc"}
    v = gather_patches(levels, ids, 4, backend=backend, **options)
    got = (v - v.mean(dim=-1, keepdim=True)) * (v.var(dim=-1, keepdim=True) + 1e-6).rsqrt()
    expected = torch.stack([row[i] for row, i in zip(normalized_pixels(levels, 4, **options), ids, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("clip", [False, True])
def test_a_linear_map_of_it_is_the_convolution(clip):
    """F.linear with the weight as it lies in memory, in float64."""
    conv = (torch.nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4)) if clip else torch.nn.Conv2d(3, 5, 4, 4)).double()
    images = torch.randn(2, 3, *[4] * clip, 12, 8, generator=seeded(), dtype=torch.float64)
    ids = some_ids(images, 4, 5, tubelet=1 + clip)
    got = functional.linear(gather_patches(images, ids, 4, tubelet=1 + clip), conv.weight.flatten(1), conv.bias)
    tokens = conv(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, torch.stack([row[i] for row, i in zip(tokens, ids, strict=True)]), rtol=1e-12, atol=1e-12)


@proves(NAME, "property")
@both
def test_any_strides_give_the_same(backend):
    expected_of = {}
    for dtype in (torch.uint8, torch.float32):
        images = pictures(2, 3, 8, 12, dtype=dtype)
        ids = some_ids(images, 4, 3)
        wide = torch.cat([images, images], dim=3)
        views = {
            "channels last": images.to(memory_format=torch.channels_last),
            "a crop": torch.nn.functional.pad(images, (3, 2, 1, 4))[:, :, 1:9, 3:15],
            "a slice of the batch": torch.stack([images, images + 1], dim=1)[:, 0],
            "every second column": wide.view(2, 3, 8, 2, 12).transpose(3, 4).flatten(3)[..., ::2],
            "columns first": images.transpose(2, 3).contiguous().transpose(2, 3),
        }
        expected_of[dtype] = gather_patches(images, ids, 4, backend=backend)
        for view in views.values():
            assert torch.equal(view, images)
            assert torch.equal(gather_patches(view, ids, 4, backend=backend), expected_of[dtype])
        for other in (ids.repeat_interleave(2, dim=1)[:, ::2], ids.T.contiguous().T, ids.int()):
            assert torch.equal(gather_patches(images, other, 4, backend=backend), expected_of[dtype])
        same = images[:1].expand(2, -1, -1, -1)
        assert torch.equal(gather_patches(same, ids, 4, backend=backend), gather_patches(same.contiguous(), ids, 4, backend=backend))


@proves(NAME, "gradcheck")
@both
@pytest.mark.parametrize("order", ["cpq", "pqc"])
@pytest.mark.parametrize("std", [None, STD[:2]])
def test_gradients_are_exact(backend, order, std):
    """Of images and clips, a token named twice included; second gradients too."""
    for shape, options in [((2, 2, 4, 6), {}), ((2, 2, 3, 2, 4), CLIP), ((1, 2, 4, 2, 2), {"tubelet": 2})]:
        images = torch.randn(*shape, generator=seeded(), dtype=torch.float64, requires_grad=True)
        ids = torch.tensor([[1, 0, 1]] * shape[0])

        def function(images, ids=ids, options=options):
            return gather_patches(images, ids, 2, std=std, order=order, backend=backend, **options)

        assert torch.autograd.gradcheck(function, images)
        assert torch.autograd.gradgradcheck(function, images)
        twice = [
            torch.autograd.grad(f(images).pow(3).sum(), images, create_graph=True)[0].square().sum() for f in (function, plain(function))
        ]
        got, expected = (torch.autograd.grad(value, images)[0] for value in twice)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def plain(function):
    """The same of torch's own indexing, which knows its gradient: what `function` does to pixel numbers says where each value is from."""

    def of(images):
        number = torch.arange(images.numel(), dtype=torch.float64).view(images.shape)
        unit = function(torch.ones_like(number))
        return images.flatten()[(function(number) / unit).round().long()] * unit

    return of


@proves(NAME, "property")
@both
def test_a_sample_sees_no_other(backend):
    """Samples are one list of pixels: neither values nor gradients may cross over, and an id outside its sample is refused."""
    for shape, options in [((3, 2, 4, 6), {}), ((3, 2, 4, 4, 2), {"tubelet": 2})]:
        images = torch.randn(*shape, generator=seeded())
        images[0], images[2] = torch.nan, torch.nan
        images.requires_grad_()
        ids = torch.tensor([[0, 3]] * 3)
        out = gather_patches(images, ids, 2, backend=backend, **options)
        assert out[1].isfinite().all()
        out[1].sum().backward()
        assert images.grad[::2].eq(0).all()
        assert images.grad[1].sum() == out[1].numel()
        for wrong in (shape[2] * shape[3] * (shape[4] if len(shape) == 5 else 1) // (8 if options else 4), -1, 10**6, -(10**6)):
            for row in range(3):
                bad = ids.clone()
                bad[row, 0] = wrong
                with pytest.raises(IndexError, match=r"out of (range|bounds)"):
                    gather_patches(images.detach(), bad, 2, backend=backend, **options)


@proves(NAME, "half")
@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(backend, dtype):
    """Computed wide and rounded once, from and to 16 bits, in and out of autocast; a gradient's sums too."""
    levels = pictures(2, 3, 8, 12)
    images = pictures(2, 3, 8, 12, dtype=dtype)
    ids, options = some_ids(images, 4, 3).repeat(1, 3), {"mean": MEAN[:3], "std": STD[:3], "backend": backend}
    wide = [gather_patches(x, ids, 4, **options) for x in (levels, images.float())]
    leaf, leaf_wide = images.clone().requires_grad_(), images.float().requires_grad_()
    weights = torch.randn(wide[1].shape, generator=seeded()).to(dtype)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            got = [gather_patches(levels, ids, 4, out_dtype=dtype, **options), gather_patches(images, ids, 4, **options)]
            assert all(torch.equal(a, b.to(dtype)) for a, b in zip(got, wide, strict=True))
            assert torch.equal(gather_patches(images, ids, 4, out_dtype=torch.float32, **options), wide[1])
            assert torch.equal(gather_patches(levels, ids, 4, **options), wide[0])
            (gradient,) = torch.autograd.grad(gather_patches(leaf, ids, 4, **options), leaf, weights)
        (expected,) = torch.autograd.grad(gather_patches(leaf_wide, ids, 4, **options), leaf_wide, weights.float())
        assert torch.equal(gradient, expected.to(dtype))


@proves(NAME, "errors")
def test_wrong_input():
    images, clips, ids = pictures(2, 3, 8, 12), pictures(2, 3, 4, 8, 12), torch.zeros(2, 3, dtype=torch.int64)
    for x, i, options, message in [
        (images[0], ids, {}, r"gather_patches: got images \[3, 8, 12\], 3 axes; expected the axes \[batch, channels, height, width\]"),
        (images, ids[:1], {}, r"got ids \[1, 3\] with batch=1; expected batch=2 as in images"),
        (images, ids[0], {}, r"got ids \[3\], 1 axes; expected the axes \[batch, kept\]"),
        (images, ids.to("meta"), {}, "got ids on meta; expected cpu, where images is"),
        (images, ids, {"patch": 5}, "grid_of: got height=8; expected a positive multiple of 5"),
        (images, ids, {"patch": 0}, "grid_of: got patch=0"),
        (images, ids, {"tubelet": 2}, "grid_of: got an image .* with tubelet=2"),
        (clips, ids, {"tubelet": 3}, "grid_of: got time=4; expected a positive multiple of 3"),
        (images, ids, {"mean": (0.5,)}, "got mean of 1 numbers; expected 3, one a channel. To mend: pass mean for the channels"),
        (images, ids, {"std": (1, 1)}, "got std of 2 numbers; expected 3"),
        (images, ids, {"std": (1, 0, 1)}, r"got std=\(1, 0, 1\); expected numbers other than 0"),
        (images, ids, {"order": "qpc"}, "got order='qpc'; expected 'pqc' or 'cpq'"),
    ]:
        with pytest.raises(ValueError, match=message):
            gather_patches(x, i, **{"patch": 4, **options})
    for x, i, options, message in [
        (images.long(), ids, {}, "got images of dtype torch.int64; expected uint8 or a floating dtype"),
        (images.numpy(), ids, {}, "got images of type ndarray; expected a tensor"),
        (images, ids.float(), {}, "got ids of dtype torch.float32; expected int64 or int32"),
        (images, ids, {"out_dtype": torch.uint8}, "got out_dtype=torch.uint8; expected a floating dtype"),
        (images, ids, {"mean": torch.zeros(3)}, "got mean of type Tensor; expected a tuple of numbers"),
        (images, ids, {"std": 0.5}, "got std of type float; expected a tuple of numbers"),
    ]:
        with pytest.raises(TypeError, match=message):
            gather_patches(x, i, 4, **options)
