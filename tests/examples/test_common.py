"""Batches and views: one process and two see the same pictures."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.augmentations import simclr

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
