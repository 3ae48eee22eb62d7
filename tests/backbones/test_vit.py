"""The vision transformer: official outputs, the paper's formulas in loops, its errors."""

import pytest
import torch
from tests.backbones.vits import CLIPS, KINDS, draw, forward_by_loop, pictures, tiny
from torch.nn import functional

from sslkit.backbones import ViT, load_official, vit_base, vit_huge, vit_large, vit_small, vit_tiny
from sslkit.backbones._embed import PatchEmbed
from sslkit.patches import patchify
from sslkit.testing import proves

NAME = "backbones.ViT"


def state_of(official, prefix):
    return {name.removeprefix(prefix): official.tensor(name) for name in official if name.startswith(prefix)}


@proves(NAME, "golden")
@proves("backbones.load_official", "golden")
@pytest.mark.parametrize("variant", ["base", "dyn", "reg", "distilled"])
def test_timm_golden(golden, variant):
    official = golden("timm_vit")
    image, patch, dim, depth, heads, _ = official["config"].tolist()
    state = state_of(official, f"{variant}/state/")
    options = {
        "reg": {"prefix": ("cls", "reg", "reg", "reg"), "prefix_positions": False, "layer_scale": 0.5},
        "distilled": {"prefix": ("cls", "dist")},
    }
    model = ViT(image, patch, dim, depth, heads, **options.get(variant, {})).eval()
    dropped = load_official(model, state, "timm")
    assert set(dropped) == {name for name in state if name.startswith("head")}
    assert model.resample == "antialias"
    front = len(model.prefix)
    out = model(official.tensor("x"), layers=(-2, -1))
    got = torch.cat([out.prefix, out.patches], dim=1)
    torch.testing.assert_close(got, official.tensor(f"{variant}/features"), rtol=1e-4, atol=1e-5)

    def head(x, name="head"):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    if variant == "distilled":
        first, second = head(out.pooled("cls")), head(out.pooled("dist"), "head_dist")
        torch.testing.assert_close(first, official.tensor("distilled/train_cls"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second, official.tensor("distilled/train_dist"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close((first + second) / 2, official.tensor("distilled/logits"), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(head(out.pooled()), official.tensor(f"{variant}/logits"), rtol=1e-4, atol=1e-5)
        for j, layer in enumerate(out.layers):
            layer = model.norm(layer)
            torch.testing.assert_close(layer[:, front:], official.tensor(f"{variant}/inter{j}/patch"), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layer[:, :front], official.tensor(f"{variant}/inter{j}/prefix"), rtol=1e-4, atol=1e-5)
    if variant == "dyn":
        other = model(official.tensor("x_other_size"))
        got = torch.cat([other.prefix, other.patches], dim=1)
        torch.testing.assert_close(got, official.tensor("dyn/features_other_size"), rtol=1e-4, atol=1e-5)


@proves(NAME, "golden")
@proves("backbones.load_official", "golden")
def test_dino_golden(golden):
    official = golden("dino_vit")
    image, patch, dim, depth, heads = official["config"].tolist()
    model = ViT(image, patch, dim, depth, heads).eval()
    teacher = {f"module.backbone.{name}": value for name, value in state_of(official, "state/").items()}
    dropped = load_official(model, {"student": {}, "teacher": {**teacher, "head.mlp.0.weight": torch.zeros(1)}, "epoch": 3}, "dino")
    assert dropped == ("head.mlp.0.weight",)
    assert model.resample == "offset"
    for i in range(4):
        images = official.tensor(f"in{i}")
        if any(n % patch for n in images.shape[2:]):
            with pytest.raises(ValueError, match="expected a positive multiple of"):
                model(images)
            images = images[..., : images.shape[2] // patch * patch, : images.shape[3] // patch * patch]  # what the official code does
        out = model(images, layers=(-2, -1), attention_of=-1)
        torch.testing.assert_close(out.pooled(), official.tensor(f"cls{i}"), rtol=0, atol=2e-5)
        torch.testing.assert_close(out.attention, official.tensor(f"attn{i}"), rtol=0, atol=2e-5)
        for j, layer in enumerate(out.layers):
            torch.testing.assert_close(model.norm(layer), official.tensor(f"inter{i}/{j}"), rtol=0, atol=2e-5)


SIZES = [
    (vit_tiny, 16, 5_524_416),
    (vit_small, 16, 21_665_664),
    (vit_small, 8, 21_670_272),
    (vit_base, 16, 85_798_656),
    (vit_base, 8, 85_807_872),
]


@proves(NAME, "golden")
@pytest.mark.parametrize(("build", "patch", "published"), SIZES)
def test_published_parameter_counts(build, patch, published):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(patch=patch).parameters()) == published


def test_large_and_huge():
    with torch.device("meta"):
        large, huge = vit_large(), vit_huge(drop_path=0.3, prefix=())
    assert (large.dim, len(large.blocks), large.blocks[0].attn.heads, large.base) == (1024, 24, 16, (14, 14))
    assert (huge.dim, len(huge.blocks), huge.blocks[0].attn.heads, huge.base) == (1280, 32, 16, (16, 16))


@proves(NAME, "loop")
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_paper_in_loops(kind, generator):
    model = tiny(**KINDS[kind]).double()
    images = pictures(model, generator, dtype=torch.float64)
    with torch.no_grad():
        expected, attention = forward_by_loop(model, images)
        for i in range(2):
            out = model(images, attention_of=i)
            torch.testing.assert_close(torch.cat([out.prefix, out.patches], dim=1), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(out.attention, attention[i], rtol=1e-9, atol=1e-9)


@proves(NAME, "loop")
@pytest.mark.parametrize("tubelet", [None, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, "last", "strided"])
def test_patch_embedding_is_the_convolution_and_ids_choose_its_places(tubelet, layout, generator):
    embed = PatchEmbed(4, 6, channels=2, tubelet=tubelet)
    images = torch.randn(3, 2, *([6] if tubelet else []), 8, 12, generator=generator)
    if layout == "strided":
        images = torch.randn(3, 2, *([6] if tubelet else []), 8, 24, generator=generator)[..., ::2]
    elif layout == "last":
        images = images.contiguous(memory_format=torch.channels_last_3d if tubelet else torch.channels_last)
    full = embed.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(images), full)
    ids = torch.rand(3, full.shape[1], generator=generator).argsort(dim=1)[:, :4]
    torch.testing.assert_close(embed(images, ids), full.gather(1, ids[..., None].expand(-1, -1, 6)))
    assert embed.grid(images) == ((2,) if tubelet else ()) + (2, 3)


@proves(NAME, "loop")
@pytest.mark.parametrize("batch", [0, 1, 16])  # torch takes another kernel from 16 samples on
@pytest.mark.parametrize("kept", [0, 1, 5])
def test_patch_embedding_and_its_gradients_are_those_of_the_matrix_product(batch, kept, generator):
    embed = PatchEmbed(8, 24, channels=3)
    images = torch.randn(batch, 3, 16, 24, generator=generator)
    ids = torch.rand(batch, 6, generator=generator).argsort(dim=1)[:, :kept]
    out = embed(images, ids)
    values = patchify(images, 8, order="cpq").gather(1, ids[..., None].expand(-1, -1, 192))
    weight, bias = embed.proj.weight.detach().flatten(1).requires_grad_(), embed.proj.bias.detach().requires_grad_()
    expected = functional.linear(values, weight, bias)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert out.is_contiguous()
    grad = torch.randn(out.shape, generator=generator)
    got, wanted = torch.autograd.grad(out, list(embed.proj.parameters()), grad), torch.autograd.grad(expected, [weight, bias], grad)
    torch.testing.assert_close(got[0].flatten(1), wanted[0], rtol=1e-5, atol=1e-4)  # sums over up to 80 tokens
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-4)


@proves(NAME, "errors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tubelet": 2}, r"ViT: got tubelet=2, frames=None, positions='learned'; expected tubelet and frames together"),
        ({"positions": "separable"}, r"ViT: got tubelet=None, frames=None, positions='separable'; expected"),
        ({"positions": "rope"}, r"ViT: got positions='rope', resample='size'; expected"),
        ({"resample": "bicubic"}, r"ViT: got positions='learned', resample='bicubic'; expected"),
        ({"prefix": ("cls", "cls")}, r"ViT: got prefix=\('cls', 'cls'\); expected a tuple of at most one"),
        ({"prefix": ("reg", "cls", "reg")}, r"ViT: got prefix=.* one run of"),
        ({"prefix": "cls"}, r"ViT: got prefix='cls'; expected a tuple"),
        ({"prefix_positions": (True, False)}, r"ViT: got prefix_positions=\(True, False\) for the prefix \('cls',\); expected one bool"),
        ({"init": "xavier"}, r"ViT: got init='xavier'; expected one of 'timm', 'dino', 'mae', 'beit'. To mend"),
        ({"drop_path": 1.5}, r"Blocks: got drop_path=1.5; expected drop_path in \[0, 1\]"),
        ({"image_size": 9}, r"grid_of: got height=9; expected a positive multiple of 4. To mend: resize or crop to 8"),
        ({"depth": 0}, r"Blocks: got depth=0, mlp_ratio=4; expected at least one block"),
        ({"channels": 0}, r"PatchEmbed: got patch=4, dim=8, channels=0, tubelet=None; expected whole numbers"),
    ],
)
def test_errors_of_the_constructor(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@proves(NAME, "errors")
def test_errors_of_the_call(generator):
    model = tiny()
    images = pictures(model, generator)
    with pytest.raises(ValueError, match=r"Attention: got dim=8, heads=3; expected dim a positive multiple of heads. To mend"):
        ViT(8, 4, 8, 1, 3)
    with pytest.raises(
        ValueError, match=r"PatchEmbed: got images \[2, 3, 8, 8\] of dtype torch.uint8; expected floating \[batch, 3, height"
    ):
        model(images.to(torch.uint8))
    with pytest.raises(ValueError, match=r"PatchEmbed: got images \[2, 3, 8, 8\] .*; expected floating \[batch, 3, time, height, width\]"):
        tiny(**CLIPS)(images)
    with pytest.raises(ValueError, match=r"grid_of: got width=6; expected a positive multiple of 4"):
        model(images[..., :6])
    mask = draw(2, (1, 2), 1, generator)
    for options, name in (({"keep": mask}, "keep"), ({"replace": mask, "mask_token": torch.zeros(8)}, "replace")):
        message = rf"ViT: got {name} for batch 2 and grid \(1, 2\); expected batch 2 and grid \(2, 2\), as .* To mend: draw the mask"
        with pytest.raises(ValueError, match=message):
            model(images, **options)
    with pytest.raises(ValueError, match=r"ViT: got replace without mask_token; expected both. To mend"):
        model(images, replace=draw(2, (2, 2), 1, generator))
    with pytest.raises(ValueError, match=r"ViT: got mask_token without replace; expected both"):
        model(images, mask_token=torch.zeros(8))
    with pytest.raises(ValueError, match=r"Blocks: got layer 2; expected a number from -2 to 1. To mend: count"):
        model(images, layers=(2,))
    with pytest.raises(ValueError, match=r"Tokens.pooled: got by='dist' with the prefix \('cls',\); expected"):
        model(images).pooled("dist")
