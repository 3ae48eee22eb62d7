"""Batches and views: one process and two see the same pictures."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.augmentations import simclr
from sslkit.backbones import Tokens

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))
import common


@given(n=st.integers(4, 200), batch=st.integers(1, 32), seed=st.integers(0, 5))
def test_an_epoch_shows_every_picture_at_most_once(n, batch, seed):
    batch = min(batch, n)
    seen = torch.cat([common.batch_of(step, n, batch, seed)[1] for step in range(n // batch)])
    assert len(seen.unique()) == len(seen) == n // batch * batch
    assert common.batch_of(n // batch, n, batch, seed)[0] == 1


def test_two_processes_see_the_views_of_one():
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    epoch, batch = common.batch_of(3, 40, 11, 0)
    recipe = simclr(16)
    whole = recipe(images[batch], indices=batch, seed=0, epoch=epoch)
    parts = [recipe(images[part], indices=part, seed=0, epoch=epoch) for part in batch.tensor_split(2)]
    for view, (a, b) in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat([a, b]), view, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "channels"), [("scenes:easy", 3), ("digits", 3)])
def test_data_by_name(name, channels):
    data = common.load_data(name, 24)
    assert data.train.shape[1:] == (channels, 24, 24)
    assert len(data.test) == len(data.test_labels)
    assert 0 <= common.floats(data.train).min() <= common.floats(data.train).max() <= 1


def test_the_score_of_attention_is_that_of_its_best_head():
    """A network whose two heads look at the left half and at nothing of it: the objects lie there in two pictures of three."""

    class Network(torch.nn.Module):
        base, patch = (2, 2), 8

        def forward(self, images, attention_of):
            assert attention_of == -1
            left, right = torch.tensor([0.2, 0.4, 0.0, 0.4, 0.0]), torch.tensor([0.6, 0.0, 0.2, 0.0, 0.2])  # the class token in front
            attention = torch.stack([left, right]).view(1, 2, 1, 5).expand(len(images), -1, 5, -1)
            return Tokens(images.new_zeros(len(images), 1, 4), images.new_zeros(len(images), 4, 4), self.base, (), attention)

    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:2, :, :8] = True
    masks[2] = True
    data = common.Data(*[torch.rand(3, 3, 16, 16)] * 3, test_masks=masks)
    assert common.attention_jaccard(Network(), data)["jaccard"] == pytest.approx((100 + 100 + 50) / 3)
    assert common.attention_jaccard(Network(), common.Data(*[torch.rand(3, 3, 16, 16)] * 3)) == {}


@pytest.mark.parametrize("name", ["scenes:easy", "digits"])
def test_masks_are_where_something_is(name):
    """Of generated pictures the object, of digits what is written: bright, on black."""
    data = common.load_data(name, 24)
    masks = data.test_masks
    assert masks.shape == (len(data.test), 24, 24)
    assert 0.05 < masks.float().mean() < 0.5
    if name == "digits":
        assert data.test.mean(dim=1)[masks].min() >= 0.5 > data.test.mean(dim=1)[~masks].max()
