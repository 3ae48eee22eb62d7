import pytest
import torch

from sslkit.backbones import ViT
from sslkit.plots import attention_sheet
from sslkit.plots.attention import COLOURS
from sslkit.testing import proves

NAME = "plots.attention_sheet"


@proves(NAME, "property")
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("head", [None, 1])
def test_every_map_is_the_row_of_its_point(prefix, head, generator):
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8, generator=generator)
    attention = torch.randn(2, 3, prefix + 6, prefix + 6, generator=generator).softmax(dim=-1)
    points = torch.tensor([[0, 4, 4], [5, 2, 1]])
    sheet = attention_sheet(images, attention, points, 4, head=head, side=16)
    assert sheet.shape == (3, 2 * 18 + 2, 4 * 26 + 2)
    for b in range(2):
        top = 2 + 18 * b
        original = images[b].repeat_interleave(2, 1).repeat_interleave(2, 2)
        for n in range(4):
            shown = sheet[:, top : top + 16, 2 + 26 * n :][..., :24]
            framed = torch.zeros(2, 3, dtype=torch.bool).flatten()
            framed[points[b] if n == 0 else points[b, n - 1]] = True
            framed = framed.view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
            border = torch.ones(8, 8, dtype=torch.bool)
            border[1:7, 1:7] = False
            framed &= border.repeat(2, 3)
            if n == 0:
                expected = original
            else:
                row = attention[b, :, prefix + points[b, n - 1], prefix:]
                row = row.mean(dim=0) if head is None else row[head]
                expected = (row / row.max() * 255).round().to(torch.uint8).view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
                expected = expected.expand(3, -1, -1)
                assert (shown[:, framed] == torch.tensor(COLOURS[n - 1], dtype=torch.uint8)[:, None]).all()
            assert torch.equal(shown[:, ~framed], expected[:, ~framed])
    assert torch.equal(attention_sheet(images / 255, attention, points, 4, head=head, side=16), sheet)
    same = attention_sheet(images, attention, points[:1].expand(2, -1), 4)
    assert torch.equal(attention_sheet(images, attention, points[0], 4), same)


@proves(NAME, "property")
def test_the_relative_bias_is_in_the_maps():
    """Weights at 0 but for a bias to the right neighbour: every point looks there; at the right border evenly at all tokens."""
    model = ViT(16, 4, 8, 1, 2, positions="relative", init="beit").requires_grad_(False)
    for weight in model.blocks.parameters():
        weight.zero_()
    model.rel_pos_bias.relative_position_bias_table[(0 + 3) * 7 + (-1 + 3)] = 20.0  # y_i - y_j = 0, x_i - x_j = -1, on the 4 x 4 grid
    images = torch.rand(1, 3, 16, 16)
    attention = model(images, attention_of=-1).attention
    sheet = attention_sheet(images, attention, torch.tensor([5, 7]), 4, side=16)
    brightness = sheet.float().mean(dim=0)[2:18, 2:].unfold(1, 16, 18)[:, 1:3].movedim(1, 0)  # [points, 16, 16]
    tokens = brightness.unfold(1, 4, 4).unfold(2, 4, 4)[..., 1:3, 1:3].mean(dim=(-1, -2)).flatten(1)  # inside of the frames
    assert tokens[0].round().tolist() == [0.0] * 6 + [255.0] + [0.0] * 9
    assert tokens[1].round().tolist() == [255.0] * 16


@proves(NAME, "errors")
def test_errors():
    images, attention = torch.zeros(2, 1, 8, 8), torch.full((2, 3, 5, 5), 0.2)
    for arguments, options, kind, message in [
        ((images, attention[:, :, :3, :3], torch.tensor([0])), {}, ValueError,
         r"attention_sheet: got attention \[2, 3, 3, 3\], head=None, for images of 2 x 2 tokens; expected 4 tokens or more"),
        ((images, attention, torch.tensor([0])), {"head": 3}, ValueError, "head=3"),
        ((images, attention, torch.tensor([0, 4])), {}, ValueError, r"got points from 0 to 4; expected 0..3. To mend: pass row"),
        ((images, attention, torch.tensor([0.0])), {}, TypeError, "got points of dtype torch.float32; expected integers"),
        ((images, attention, torch.tensor([[0]] * 3)), {}, ValueError, "batch"),
        ((images, attention[..., :4], torch.tensor([0])), {}, ValueError, "length"),
        ((torch.zeros(2, 1, 9, 8), attention, torch.tensor([0])), {}, ValueError, "multiple of 4"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=message):
            attention_sheet(*arguments, 4, **options)
