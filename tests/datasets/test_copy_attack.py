import pytest
import torch
import torch.nn.functional as F

from sslkit.datasets import Scenes, copy_attack
from sslkit.testing import proves


@pytest.fixture(scope="module")
def batch():
    return Scenes("test", 32).batch(range(200))


@proves("datasets.copy_attack", "property")
def test_belongs_to_the_index_and_the_seed(batch):
    state = torch.random.get_rng_state()
    attacked = copy_attack(batch.images, indices=batch.indices, seed=0)
    order = torch.arange(199, -1, -7)
    torch.testing.assert_close(copy_attack(batch.images[order], indices=order, seed=0), attacked[order], rtol=0, atol=1e-6)
    assert torch.equal(state, torch.random.get_rng_state())
    other = copy_attack(batch.images, indices=batch.indices, seed=1)
    assert (other - attacked).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_what_it_does(batch):
    attacked = copy_attack(batch.images, indices=batch.indices, seed=0)
    assert attacked.shape == batch.images.shape
    assert attacked.dtype == torch.float32
    # black and the 16 levels, or mid-grey in the strip
    levels = attacked * 15
    assert torch.all(((levels - levels.round()).abs() < 1e-4) | (attacked == 0.5))
    painted = ((attacked == 0) | (attacked == 0.5)).all(dim=1).all(dim=-1).sum(dim=1)
    assert painted.min() >= 32 // 6
    assert (painted == 32 // 6).float().mean() > 0.9
    chroma = (attacked.amax(dim=1) - attacked.amin(dim=1)).mean(dim=(1, 2))
    clean = (batch.images.amax(dim=1) - batch.images.amin(dim=1)).mean(dim=(1, 2))
    assert chroma.mean() < 1.6 * clean.mean()


def test_copies_are_found_but_not_for_nothing():
    data = Scenes("test", 32).batch(range(600)).images
    queries = copy_attack(data[:150], indices=torch.arange(150), seed=0)
    small = [
        F.normalize((F.adaptive_avg_pool2d(x, 4) - F.adaptive_avg_pool2d(data, 4).mean(dim=0)).flatten(1), dim=1) for x in (queries, data)
    ]
    found = ((small[0] @ small[1].T).argmax(dim=1) == torch.arange(150)).float().mean()
    assert 0.1 < found < 0.9  # chance is 1/600; an attack that changes nothing gives 1


def test_flat_grey_stays_grey_without_noise_being_biased():
    # a grey picture has no hue or contrast to change: only brightness, noise and the strip are left.
    grey = torch.full((400, 3, 24, 24), 0.4)
    attacked = copy_attack(grey, indices=torch.arange(400), seed=3)
    kept = ~((attacked == 0) | (attacked == 0.5)).all(dim=1).all(dim=-1)  # rows outside the strip
    means = torch.stack([picture[:, rows].mean() for picture, rows in zip(attacked, kept, strict=True)])
    assert means.mean().item() == pytest.approx(0.4, abs=0.02)
    assert 0.22 < means.min() < 0.3
    assert 0.5 < means.max() < 0.58


@proves("datasets.copy_attack", "errors")
def test_wrong_input(batch):
    with pytest.raises(ValueError, match=r"copy_attack: got indices \[3\] with batch=3; expected batch=200"):
        copy_attack(batch.images, indices=torch.arange(3), seed=0)
    with pytest.raises(TypeError, match="expected a floating dtype"):
        copy_attack(torch.zeros(1, 3, 24, 24, dtype=torch.uint8), indices=torch.arange(1), seed=0)
