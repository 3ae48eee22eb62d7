import pytest
import torch

from sslkit.datasets import FAMILIES
from sslkit.datasets._backgrounds import TILES, tile_bank, tile_side


@pytest.mark.parametrize("size", [24, 33, 64])
def test_bank_has_its_shape_and_uses_the_whole_range(size):
    bank = tile_bank(size, 0, 0)
    assert bank.shape == (len(FAMILIES), TILES, tile_side(size), tile_side(size))
    assert bank.dtype == torch.uint8
    assert torch.all(bank.amin(dim=(2, 3)) == 0)
    assert torch.all(bank.amax(dim=(2, 3)) == 255)


def test_all_tiles_differ_between_each_other_splits_and_seeds():
    tiles = torch.cat([tile_bank(24, seed, split).flatten(0, 1) for seed, split in ((0, 0), (0, 1), (1, 0))]).flatten(1).float()
    distance = torch.cdist(tiles, tiles) / tiles.shape[1] ** 0.5
    assert distance.fill_diagonal_(999).min() > 3  # grey levels


def test_families_have_their_spectra():
    # share of the variance that a blur over 5 pixels takes away: smooth families lose little, grain nearly all.
    bank = tile_bank(64, 0, 0).float()
    blurred = torch.nn.functional.avg_pool2d(bank, 5, stride=1, padding=2, count_include_pad=False)
    lost = dict(zip(FAMILIES, ((bank - blurred).var(dim=(2, 3)) / bank.var(dim=(2, 3))).mean(dim=1).tolist(), strict=True))
    assert lost["gradient"] < 0.01
    assert lost["cloud"] < 0.2 < lost["grain"]
    assert lost["cells"] < 0.2
    assert lost["dead leaves"] < 0.3
    assert lost["grain"] == max(lost.values())
