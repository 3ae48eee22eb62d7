"""What must hold of HOG whatever the picture: invariances, flips, flat parts, ids, remainders, clips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.hogs import cells, levels, proof, smooth, versions

from sslkit.kernels import hog

INSIDE = (..., slice(1, -1), slice(1, -1))  # cells away from the border, where mirroring makes gx or gy 0


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # sums of a cell may be in another order


@proof("property")
@versions
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flat_pictures_are_zero(backend, dtype):
    flat = torch.arange(256).view(256, 1, 1, 1).expand(-1, 3, 16, 24)
    assert hog(flat.to(dtype), backend=backend).eq(0).all()
    if dtype == torch.float32:
        normalised = (flat.float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / 0.224
        assert hog(normalised, backend=backend).eq(0).all()  # the public layer gives 246 of these levels a unit vector


@proof("property")
@versions
@settings(max_examples=20)
@given(slope=st.sampled_from([-7, -1, 1, 3, 1000]), shift=st.integers(-1000, 1000), seed=st.integers(0, 99))
def test_level_and_contrast_of_a_channel_cancel(backend, slope, shift, seed):
    images = levels(1, 2, 16, 24, seed=seed).float()
    changed = images.clone()
    changed[:, 0] = slope * images[:, 0] + shift
    assert torch.equal(cells(changed, 1, backend=backend).argmax(dim=2), cells(images, 1, backend=backend).argmax(dim=2))
    equal(hog(changed, backend=backend), hog(images, backend=backend))


@proof("property")
@versions
@pytest.mark.parametrize("bins", [7, 9])
def test_flips_and_turns(backend, bins):
    """A flip reverses the bins, half a turn keeps them. On levels, for odd bins, where gx = 0 is the one limit that a pixel lies on.

    A pixel with gx = 0 has bin 0 and keeps it under a flip, which sends bin 0 to the last: so the pictures have none.
    """
    base = smooth(1, 2, 48, 40).float()
    images = base + torch.rand(base.shape, generator=torch.Generator().manual_seed(0)).mul(2**12).round() / 2**12  # exact sums, no ties
    expected = cells(images, bins=bins, backend=backend)
    for axes, order in [((-1,), -1), ((-2,), -1), ((-2, -1), 1)]:
        turned = cells(images.flip(axes), bins=bins, backend=backend).flip(axes)
        turned = turned.flip(2) if order == -1 else turned
        equal(turned[INSIDE], expected[INSIDE])


@proof("property")
@versions
def test_moving_by_cells_moves_the_cells(backend):
    images = smooth(1, 3, 64, 64)
    moved = cells(images[..., 8:, 16:], backend=backend)
    equal(moved[INSIDE], cells(images, backend=backend)[..., 1:, 2:][INSIDE])


@proof("property")
@versions
def test_a_token_sees_its_own_pixels_and_a_ring_of_one(backend):
    images = smooth(1, 1, 64, 64)
    changed = levels(1, 1, 64, 64)
    changed[..., 15:33, 31:49] = images[..., 15:33, 31:49]
    a, b = (hog(x, backend=backend).view(4, 4, -1) for x in (images, changed))
    equal(a[1, 2], b[1, 2])
    assert (a - b).abs().amax(dim=-1).gt(1e-3).sum() == 15


@proof("property")
@versions
def test_channels_and_samples_are_independent(backend):
    images = smooth(3, 4, 32, 48)
    everything = hog(images, backend=backend)
    per_channel = everything.view(3, -1, 4, 36)
    for b in range(3):
        equal(hog(images[b : b + 1], backend=backend)[0], everything[b])
        for c in range(4):
            equal(hog(images[b : b + 1, c : c + 1], backend=backend)[0], per_channel[b, :, c])
    assert hog(images[:0], backend=backend).shape == (0, 6, 144)
    assert hog(images[:, :0], backend=backend).shape == (3, 6, 0)


@proof("property")
@versions
@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 99))
def test_ids_are_rows_of_the_whole(backend, data, seed):
    images = levels(2, 2, 32, 48, seed=seed)
    kept = data.draw(st.integers(0, 8))  # more than there are: a token may be asked for twice
    ids = torch.randint(0, 6, (2, kept), generator=torch.Generator().manual_seed(seed))
    whole = hog(images, backend=backend)
    got = hog(images, ids=ids.to(data.draw(st.sampled_from([torch.int32, torch.int64]))), backend=backend)
    assert torch.equal(got, whole.gather(1, ids[..., None].expand(-1, -1, whole.shape[2])))
    for wrong in (6, -1):
        with pytest.raises(IndexError):
            hog(images, ids=torch.full((2, 1), wrong), backend=backend)


@proof("property")
@versions
def test_what_fills_no_token_is_left_over(backend):
    images = smooth(2, 3, 45, 61)
    assert hog(images, backend=backend).shape == (2, 2 * 3, 108)
    other = images.clone()
    other[..., 33:, :] = 7  # from the second row beyond: the first is the neighbour of the last row that counts
    other[..., :, 49:] = 200
    equal(hog(other, backend=backend), hog(images, backend=backend))
    equal(cells(images[..., :27, :37], backend=backend), cells(images[..., :25, :33], backend=backend))


@proof("property")
@versions
def test_ramps_fall_into_one_bin(backend):
    ramp = torch.arange(24, dtype=torch.uint8)
    for image, k in [(ramp.expand(24, 24), 4), (ramp.flip(0).expand(24, 24), 4), (ramp.view(-1, 1).expand(24, 24), 0)]:
        got = cells(image[None, None].contiguous(), backend=backend)[..., 1:-1, 1:-1].squeeze()
        assert torch.equal(got, torch.eye(9)[k])


@proof("property")
@versions
def test_every_dtype_and_stride_of_the_same_levels_gives_the_same(backend):
    images = smooth(2, 3, 32, 40)
    expected = hog(images, backend=backend)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(hog(images.to(dtype), backend=backend), expected)
        equal(hog(images.to(dtype) / 256, backend=backend), expected)  # a power of two is exact
    double = hog(images.double(), backend=backend)
    assert double.dtype == torch.float32
    equal(double, expected)
    wider = smooth(2, 3, 40, 48, seed=1)
    wider[..., 3:35, 5:45] = images
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for view in (last, wider[..., 3:35, 5:45], images.flip(0).flip(0), images.mT.contiguous().mT):
        assert torch.equal(hog(view, backend=backend), expected)
    assert torch.equal(hog(images[:1].expand(2, -1, -1, -1), backend=backend)[1], expected[0])


@proof("property")
@versions
@pytest.mark.parametrize(("tubelet", "stride", "frames", "used"), [
    (1, 1, 3, [0, 1, 2]), (2, 1, 4, [0, 2]), (2, 1, 5, [0, 2]), (1, 2, 4, [0, 2]), (1, 2, 5, [0, 2, 4]), (2, 2, 7, [0, 4]),
    (2, 3, 7, [0]), (3, 1, 8, [0, 3]),
])  # fmt: skip
def test_clips_are_their_frames(backend, tubelet, stride, frames, used):
    clips = smooth(2, 3, frames, 32, 48)
    got = hog(clips, tubelet=tubelet, frame_stride=stride, backend=backend)
    equal(got, torch.cat([hog(clips[:, :, t], backend=backend) for t in used], dim=1))
    other = clips.clone()
    other[:, :, [t for t in range(frames) if t not in used]] = levels(*clips[:, :, : frames - len(used)].shape)
    assert torch.equal(hog(other, tubelet=tubelet, frame_stride=stride, backend=backend), got)
    assert torch.equal(hog(clips[:, :, :1], backend=backend), hog(clips[:, :, 0], backend=backend))


@proof("property")
@versions
def test_a_nan_stays_in_its_cells(backend):
    images = smooth(1, 1, 48, 48).float()
    images[..., 20, 21] = torch.nan  # inside the cell (2, 2)
    broken = cells(images, backend=backend).isnan().any(dim=2)[0, 0]
    assert broken.nonzero().tolist() == [[2, 2]]
