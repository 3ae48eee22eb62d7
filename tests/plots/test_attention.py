import pytest
import torch

from sslkit.backbones import ViT, adapt, load_official
from sslkit.evaluation import attention_masks
from sslkit.plots import attention_heads, attention_sheet
from sslkit.plots.attention import COLOURS
from sslkit.testing import proves

NAME, HEADS = "plots.attention_sheet", "plots.attention_heads"


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


@proves(HEADS, "property")
@pytest.mark.parametrize(("channels", "heads"), [(3, 2), (1, 7)])
def test_every_pixel_has_the_colour_of_the_head_that_looks_there_most(channels, heads, generator):
    images = torch.randint(0, 256, (2, channels, 8, 12), dtype=torch.uint8, generator=generator)
    attention = torch.rand(2, heads, 6, generator=generator) * 10.0 ** torch.randint(-3, 3, (2, heads, 1), generator=generator)
    masks = torch.rand(2, heads, 6, generator=generator) < 0.4
    attention[0, 1], masks[0, 1] = 0, False  # a head that looks at the prefix alone
    masks[0, :, 0], masks[1, :, 1] = False, True  # no head, and all of them
    sheet = attention_heads(images, attention, masks, 4, alone=True, side=16)
    cells = sheet[:, 2:, 2:].unfold(1, 22, 24).unfold(2, 30, 32)  # [3, images, pictures, 22, 30], with a frame of 3 pixels
    assert cells.shape[1:3] == (2, 2 + heads)
    for b in range(2):
        assert torch.equal(cells[:, b, 0, 3:-3:2, 3:-3:2], images[b].expand(3, -1, -1))
        for shown in range(heads):
            assert cells[:, b, 2 + shown, 0].T.tolist() == [list(COLOURS[shown % 6])] * 30
        for cell, looking in [(1, range(heads)), *((2 + h, [h]) for h in range(heads))]:
            picture = cells[:, b, cell, 3:-3, 3:-3]
            for y in range(16):
                for x in range(24):
                    token = y // 8 * 3 + x // 8
                    grey = images[b, :, y // 2, x // 2].double().mean().item() / 255
                    those = [(attention[b, h, token] / attention[b, h].sum(), h) for h in looking if masks[b, h, token]]
                    colour = [(0.4 + 0.6 * grey) * c for c in COLOURS[max(those)[1] % 6]] if those else [255 * grey / 4] * 3
                    assert picture[:, y, x].tolist() == pytest.approx(colour, abs=0.51)  # the nearest of 256 levels


@proves(HEADS, "property")
@pytest.mark.parametrize("registers", [0, 2])
def test_an_adapted_network_of_the_same_weights_gives_the_same_sheet(registers, generator):
    timm = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    theirs = timm.VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0, reg_tokens=registers)
    own = ViT(16, 4, 24, 2, 3, prefix=("cls", *["reg"] * registers), prefix_positions=True)
    load_official(own, theirs.state_dict(), "timm")
    images = torch.rand(2, 3, 16, 16, generator=generator)
    sheets = []
    for model in (own.eval(), adapt(theirs.eval())):
        tokens = model(images, attention_of=-1)
        weights = tokens.attention[:, :, 0, len(tokens.names) :]
        masks = attention_masks(weights, 0.6)
        sheets.append(attention_heads(images, weights, masks, 4, alone=True))
        assert sheets[-1].float().std() > 10
    assert torch.equal(*sheets)


@proves(HEADS, "errors")
def test_errors_of_the_heads():
    images, attention, masks = torch.zeros(2, 1, 8, 8), torch.full((2, 3, 4), 0.2), torch.ones(2, 3, 4, dtype=torch.bool)
    for arguments, message in [
        (
            (images, attention[..., :3], masks[..., :3]),
            r"attention_heads: got attention \[2, 3, 3\] for images of 2 x 2 tokens; expected 4",
        ),
        ((images, attention, masks.float()), "got masks of dtype torch.float32; expected torch.bool. To mend: pass attention_masks"),
        ((images, attention, masks[:, :2]), "heads"),
        ((images[:1], attention, masks), "batch"),
        ((torch.zeros(2, 1, 9, 8), attention, masks), "multiple of 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention_heads(*arguments, 4)
