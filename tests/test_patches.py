"""Patches: a loop from the definition, the inverse, and both value orders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.patches import grid_of, patchify, unpatchify
from sslkit.testing import proves

orders = st.sampled_from(["pqc", "cpq"])


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).view(shape)


@proves("patches.patchify", "loop", "property")
@given(h=st.integers(1, 4), w=st.integers(1, 4), patch=st.integers(1, 3), channels=st.integers(1, 4), order=orders)
def test_equals_a_loop_over_images(h, w, patch, channels, order):
    images = numbered(2, channels, h * patch, w * patch)
    tokens = patchify(images, patch, order=order)
    for row in range(h):
        for col in range(w):
            cut = images[:, :, row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            expected = cut.permute(0, 2, 3, 1) if order == "pqc" else cut
            assert torch.equal(tokens[:, row * w + col], expected.flatten(1))


@proves("patches.patchify", "loop", "property")
@proves("patches.grid_of", "loop", "property")
@given(t=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), tubelet=st.integers(1, 2), stride=st.integers(1, 3), order=orders)
def test_equals_a_loop_over_clips(t, h, w, tubelet, stride, order):
    clips = numbered(2, 3, t * tubelet * stride, h * 2, w * 2)
    tokens = patchify(clips, 2, tubelet=tubelet, frame_stride=stride, order=order)
    assert grid_of(clips.shape[2:], 2, tubelet=tubelet, frame_stride=stride) == (t, h, w)
    frames = [clips[:, :, i] for i in range(0, clips.shape[2], stride)]
    for n, (time, row, col) in enumerate((a, b, c) for a in range(t) for b in range(h) for c in range(w)):
        cut = torch.stack(
            [f[:, :, row * 2 : row * 2 + 2, col * 2 : col * 2 + 2] for f in frames[time * tubelet : (time + 1) * tubelet]], dim=2
        )
        expected = cut.permute(0, 2, 3, 4, 1) if order == "pqc" else cut
        assert torch.equal(tokens[:, n], expected.flatten(1))


@proves("patches.unpatchify", "loop", "property")
@given(h=st.integers(1, 4), w=st.integers(1, 4), t=st.integers(0, 3), patch=st.integers(1, 3), tubelet=st.integers(1, 2), order=orders)
def test_unpatchify_is_the_inverse(h, w, t, patch, tubelet, order):
    grid = (t, h, w) if t else (h, w)
    tubelet = tubelet if t else 1
    images = numbered(2, 3, *([t * tubelet] if t else []), h * patch, w * patch)
    assert torch.equal(unpatchify(patchify(images, patch, tubelet=tubelet, order=order), grid, patch, tubelet=tubelet, order=order), images)


def test_cpq_tokens_times_a_convolutions_weight_are_the_convolution(generator):
    images = torch.randn(2, 3, 8, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(images, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(images, 4, order="cpq") @ weight.flatten(1).T, expected)


@proves("patches.patchify", "errors")
@proves("patches.unpatchify", "errors")
@proves("patches.grid_of", "errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: patchify(torch.zeros(1, 3, 30, 32), 16),
            r"grid_of: got height=30; expected a positive multiple of 16. To mend: resize or crop to 16",
        ),
        (lambda: patchify(torch.zeros(3, 32, 32), 16), r"patchify: got images \[3, 32, 32\]; expected"),
        (lambda: patchify(torch.zeros(1, 3, 32, 32), 16, order="qpc"), r"order='qpc'; expected 'pqc' or 'cpq'"),
        (lambda: patchify(torch.zeros(1, 3, 32, 32), 16, tubelet=2), r"tubelet=2, frame_stride=1; expected a clip"),
        (lambda: patchify(torch.zeros(1, 3, 32, 32), 0), r"patch=0"),
        (
            lambda: unpatchify(torch.zeros(1, 5, 12), (2, 2), 2),
            r"unpatchify: got tokens \[1, 5, 12\]; expected \[batch, 4, channels \* 4\]",
        ),
        (lambda: grid_of((4, 4, 4, 4), 2), r"expected \(height, width\) or"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
