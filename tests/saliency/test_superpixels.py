"""Superpixels: the loop over pixels and nine centres, edges kept, batches, scikit-image's as a relative."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kornia.color import rgb_to_lab
from tests.saliency.estimators import scene

from sslkit.saliency import superpixels
from sslkit.saliency._lab import to_lab
from sslkit.testing import pickles, proves

NAME = "saliency.superpixels"


@proves(NAME, "loop", "property")
@settings(max_examples=10)
@given(height=st.integers(4, 9), width=st.integers(4, 9), count=st.integers(1, 6), compactness=st.floats(1, 50), seed=st.integers(0, 99),
       stride=st.integers(1, 2))  # fmt: skip
def test_equals_the_loop(height, width, count, compactness, seed, stride):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lab = rgb_to_lab(image)[0]
    side = (height * width / count) ** 0.5
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    assume(stride <= min(height // rows, width // columns) or stride == 1)
    scale = compactness / side
    cell = [[(y * rows // height, x * columns // width) for x in range(width)] for y in range(height)]
    label = {(y, x): cell[y][x] for y in range(height) for x in range(width)}
    point = {(y, x): torch.cat([lab[:, y, x], scale * torch.tensor([y, x])]) for y, x in label}
    centres = {}
    for step in range(4):
        for c in {(i, j) for i in range(rows) for j in range(columns)}:
            members = [point[y, x] for y, x in label if label[y, x] == c and y % stride == x % stride == 0]
            centres[c] = torch.stack(members).mean(dim=0) if members else centres.get(c, torch.zeros(5, dtype=torch.float64))
        if step == 3:
            break
        for y, x in label:
            i, j = cell[y][x]
            near = [(min(max(i + a, 0), rows - 1), min(max(j + b, 0), columns - 1)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            label[y, x] = min(near, key=lambda c, p=(y, x): float((point[p] - centres[c]).square().sum()))
    expected = torch.tensor([[label[y, x][0] * columns + label[y, x][1] for x in range(width)] for y in range(height)])
    assert torch.equal(superpixels(image, count=count, compactness=compactness, iterations=3, stride=stride)[0], expected)


@proves(NAME, "property", "half", "pickle")
@pytest.mark.parametrize("stride", [1, 2])
def test_regions_keep_to_one_side_of_an_edge_whatever_the_batch(stride):
    images, truth = map(torch.stack, zip(*(scene(seed, side=48) for seed in range(3)), strict=True))
    labels = superpixels(images, count=64, stride=stride)
    assert labels.shape == (3, 48, 48)
    assert int(labels.max()) < 64
    for image, label, inside in zip(images, labels, truth, strict=True):
        assert torch.equal(superpixels(image[None], count=64, stride=stride)[0], label)
        share = torch.zeros(64).scatter_add_(0, label.flatten(), inside.float().flatten())
        size = label.flatten().bincount(minlength=64)
        mixed = torch.minimum(share, size - share).sum() / 48**2
        assert mixed < 0.01  # of the pixels lie in a region of the other kind
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(superpixels(images.to(dtype)), superpixels(images.to(dtype).float()))
    levels = (images * 255).to(torch.uint8)
    assert torch.equal(superpixels(levels), superpixels(levels.float() / 255))
    pickles(superpixels, (images,))


@proves(NAME, "property")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_lab_is_that_of_kornia(dtype, tolerance):
    dark = torch.tensor([0, 1, 2, 10, 11, 255], dtype=dtype) / 255  # on both sides of each bend
    grid = torch.cartesian_prod(dark, dark, dark).T.reshape(1, 3, 12, 18)
    torch.testing.assert_close(to_lab("test", grid), rgb_to_lab(grid), rtol=0, atol=tolerance)
    levels = (grid * 255).round().to(torch.uint8)
    torch.testing.assert_close(to_lab("test", levels), to_lab("test", levels.float() / 255), rtol=0, atol=0)


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match="superpixels: got count=0; expected a whole count from 1 on"):
        superpixels(torch.zeros(1, 3, 8, 8), count=0)
    with pytest.raises(ValueError, match=r"superpixels: got images \[1, 4, 8, 8\] of torch.float32"):
        superpixels(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="superpixels: got stride 3, cells of 2 x 2 pixels; expected a pixel in each cell"):
        superpixels(torch.zeros(1, 3, 8, 8), count=16, stride=3)
