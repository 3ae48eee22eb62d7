"""timm's models behind our interface: official numbers, attention, sizes, masks of Beit and MViT."""

import pytest
import torch
from tests.backbones.adapted import flat, jitter, pixels, timm_beit, timm_distilled, timm_mvit, timm_vit
from tests.backbones.vits import draw
from torch.nn import functional

from sslkit.backbones import adapt
from sslkit.maskers import TokenMask
from sslkit.testing import proves

NAME = "backbones.adapt"


def part_of(official, prefix):
    return {name.removeprefix(prefix): official.tensor(name) for name in official if name.startswith(prefix)}


@proves(NAME, "golden")
@pytest.mark.parametrize("variant", ["base", "dyn", "reg", "distilled"])
def test_official_vit(golden, variant):
    official = golden("timm_vit")
    image, patch, dim, depth, heads, classes = official["config"].tolist()
    sizes = {"img_size": image, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads, "num_classes": classes}
    options = {"dyn": {"dynamic_img_size": True}, "reg": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1}}.get(variant, {})
    model = (timm_distilled if variant == "distilled" else timm_vit)(**sizes, **options).eval()
    model.load_state_dict(part_of(official, f"{variant}/state/"))
    encoder = adapt(model)
    out = encoder(official.tensor("x"), layers=(-2, -1))
    torch.testing.assert_close(flat(out), official.tensor(f"{variant}/features"), rtol=1e-4, atol=1e-5)
    front = out.prefix.shape[1]
    for j, layer in enumerate(out.layers if variant != "distilled" else ()):
        layer = encoder.norm(layer)
        torch.testing.assert_close(layer[:, front:], official.tensor(f"{variant}/inter{j}/patch"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer[:, :front], official.tensor(f"{variant}/inter{j}/prefix"), rtol=1e-4, atol=1e-5)
    if variant == "dyn":
        other = encoder(official.tensor("x_other_size"))
        torch.testing.assert_close(flat(other), official.tensor("dyn/features_other_size"), rtol=1e-4, atol=1e-5)
        assert other.grid == (official["x_other_size"].shape[2] // patch, official["x_other_size"].shape[3] // patch)


@proves(NAME, "golden")
def test_official_beit_pretraining(golden):
    """Logits, loss and gradients of the official masked model: its mask token and head around timm's Beit."""
    official = golden("beit_model")
    height, width, patch, _, dim, depth, heads, ratio = official["cfg"].tolist()
    state = part_of(official, "sd.")
    token, weight, bias = (state.pop(name).requires_grad_() for name in ("mask_token", "lm_head.weight", "lm_head.bias"))
    sizes = {"img_size": (height, width), "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    options = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True, "init_values": 0.1, "global_pool": "token", "num_classes": 0}
    model = timm_beit(**sizes, **options).eval()
    model.load_state_dict(state)
    encoder = adapt(model)
    mask = TokenMask(official.tensor("mask", torch.bool), encoder.base)
    logits = functional.linear(encoder(official.tensor("imgs"), replace=mask, mask_token=token).patches, weight, bias)
    torch.testing.assert_close(logits, official.tensor("logits_all"), rtol=0, atol=2e-5)
    hidden = logits[mask.mask]
    torch.testing.assert_close(hidden, official.tensor("logits_masked"), rtol=0, atol=2e-5)
    loss = functional.cross_entropy(hidden, official.tensor("token_ids", torch.int64)[mask.mask])
    torch.testing.assert_close(loss, official.tensor("loss"), rtol=1e-5, atol=0)
    loss.backward()
    gradients = {"mask_token": token.grad, "lm_head.bias": bias.grad, **{name: p.grad for name, p in model.named_parameters()}}
    for name in official:
        if name.startswith("grad."):
            torch.testing.assert_close(gradients[name.removeprefix("grad.")], official.tensor(name), rtol=0, atol=2e-5)


@proves(NAME, "loop")
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_keep_in_beit_equals_hiding_the_keys_from_all_queries(own, shared, training, generator):
    """The whole sequence, where hidden tokens get a bias of minus infinity: what is kept cannot tell the difference."""
    options = {"use_rel_pos_bias": own, "use_shared_rel_pos_bias": shared, "use_abs_pos_emb": not own, "img_size": (16, 24)}
    model = jitter(timm_beit(**options, init_values=0.5 if own else None)).train(training)
    encoder, images = adapt(model), torch.randn(2, 3, 16, 24, generator=generator)
    mask = draw(2, (4, 6), 7, generator)
    out = encoder(images, keep=mask, layers=(0,), attention_of=1)
    for b in range(2):
        hidden = functional.pad(mask.mask[b], (1, 0))
        minus = torch.zeros(1, 1, 1, 25).masked_fill(hidden, -torch.inf)
        x = encoder.locate(*encoder.embed(images))[b : b + 1]
        for i, block in enumerate(model.blocks):
            x = block(x, shared_rel_pos_bias=minus + (model.rel_pos_bias() if shared else 0))
            if i == 0:
                torch.testing.assert_close(out.layers[0][b], x[0, ~hidden], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(flat(out)[b], model.norm(x)[0, ~hidden], rtol=1e-5, atol=1e-5)
    assert out.attention.shape == (2, 2, 8, 8)
    torch.testing.assert_close(out.attention.sum(dim=-1), torch.ones(2, 2, 8))


BUILDS = {
    "plain": lambda: timm_vit(),
    "qk norm": lambda: timm_vit(qk_norm=True, init_values=0.5, reg_tokens=2),
    "after": lambda: timm_vit(block_fn=pytest.importorskip("timm.models.vision_transformer").ResPostBlock, init_values=0.5),
    "distilled": lambda: timm_distilled(),
    "beit": lambda: timm_beit(use_rel_pos_bias=True, use_shared_rel_pos_bias=True, init_values=0.5),
    "beit without bias": lambda: timm_beit(qkv_bias=False),
}


@proves(NAME, "loop")
@pytest.mark.parametrize("name", BUILDS)
def test_attention_is_what_the_block_uses(name, generator):
    """timm's own weights, from the input of the block's attention dropout in its unfused form."""
    model, images = jitter(BUILDS[name]()), torch.randn(2, 3, 16, 16, generator=generator)
    encoder = adapt(model)
    for i in (0, 1, -1):
        got, seen = encoder(images, attention_of=i).attention, []
        attn = model.blocks[i].attn
        fused, attn.fused_attn = attn.fused_attn, False
        handle = attn.attn_drop.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        model.forward_features(images)
        handle.remove()
        attn.fused_attn = fused
        torch.testing.assert_close(got, seen[0], rtol=1e-5, atol=1e-6)
    assert got.dtype == torch.float32


@proves(NAME, "errors")
def test_attention_of_other_blocks(generator):
    vit = pytest.importorskip("timm.models.vision_transformer")
    images = torch.randn(1, 3, 16, 16, generator=generator)
    for options in ({"block_fn": vit.ParallelScalingBlock}, {"block_fn": vit.ParallelThingsBlock}):
        encoder = adapt(jitter(timm_vit(**options)))
        kept = encoder(images, keep=draw(1, (4, 4), 5, generator), layers=(0, 1))  # everything else works
        assert kept.layers[1].shape == (1, 6, 16)
        with pytest.raises(ValueError, match=r"adapt: got attention_of for blocks of class Parallel.*; expected attention over one set"):
            encoder(images, attention_of=0)


def test_keep_acts_in_the_place_of_patch_dropout(generator):
    model = jitter(timm_vit(patch_drop_rate=0.5, drop_path_rate=0.5, pos_drop_rate=0.2)).train()
    encoder, images = adapt(model), torch.randn(4, 3, 16, 16, generator=generator)
    torch.manual_seed(0)
    expected = model.forward_features(images)
    torch.manual_seed(0)
    out = encoder(images)
    assert torch.equal(flat(out), expected)
    assert out.patches.shape[1] == 8
    assert encoder(images, keep=draw(4, (4, 4), 5, generator)).patches.shape[1] == 5


@proves(NAME, "property")
@pytest.mark.parametrize(("options", "size"), [({}, (24, 8)), ({"dynamic_img_pad": True}, (13, 22)), ({"no_embed_class": True}, (4, 36))])
def test_other_sizes_where_the_model_takes_them(options, size, generator):
    model, images = jitter(timm_vit(dynamic_img_size=True, **options)), torch.randn(2, 3, *size, generator=generator)
    encoder = adapt(model)
    out, grid = encoder(images), tuple(-(-n // 4) for n in size)
    assert torch.equal(flat(out), model.forward_features(images))
    assert (out.grid, encoder.base) == (grid, (4, 4))
    mask = draw(2, grid, 3, generator)
    poisoned = images.masked_fill(pixels(mask, size), torch.nan)
    assert torch.equal(encoder(images, keep=mask).patches, encoder(poisoned, keep=mask).patches)
    whole = encoder.locate(*encoder.embed(images))
    expected = model.norm(model.blocks(mask.keep(whole, prefix=1)))
    torch.testing.assert_close(flat(encoder(images, keep=mask)), expected, rtol=1e-5, atol=1e-5)


def test_the_grid_follows_set_input_size(generator):
    for model in (timm_vit(), timm_beit()):
        encoder, images = adapt(jitter(model)), torch.randn(2, 3, 8, 24, generator=generator)
        model.set_input_size((8, 24))
        out = encoder(images)
        assert out.grid == encoder.base == (2, 6)
        assert torch.equal(flat(out), model.forward_features(images))


@proves(NAME, "errors")
def test_sizes_that_are_refused(generator):
    images = torch.randn(1, 3, 20, 16, generator=generator)
    with pytest.raises(ValueError, match=r"adapt: got images of size \(20, 16\) for a VisionTransformer; expected \(16, 16\), for which "
                                         r"it was built. To mend: build it with dynamic_img_size=True"):  # fmt: skip
        adapt(timm_vit())(images)
    with pytest.raises(ValueError, match=r"grid_of: got height=18; expected a positive multiple of 4"):
        adapt(timm_vit(dynamic_img_size=True))(images[:, :, :18])
    with pytest.raises(ValueError, match=r"for a Beit; expected \(16, 16\), for which it was built. To mend: call its set_input_size"):
        adapt(timm_beit())(images)
    with pytest.raises(ValueError, match=r"for a MultiScaleVit; expected \(32, 32\): its positions are tables for a grid \(8, 8\)"):
        adapt(timm_mvit())(images)


@pytest.mark.parametrize("build", [timm_vit, timm_beit, timm_mvit])
def test_gradient_checkpointing_is_kept(build, generator):
    images = torch.randn(2, 3, 32 if build is timm_mvit else 16, 32 if build is timm_mvit else 16, generator=generator)
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = jitter(build()).train()
        model.set_grad_checkpointing(recompute)
        calls = []
        first = next(m for m in model.modules() if type(m).__name__ in ("Block", "MultiScaleBlock"))
        handle = first.register_forward_pre_hook(lambda *inputs, calls=calls: calls.append(1))
        out = flat(adapt(model)(images))
        found.append(torch.autograd.grad(out.square().sum(), model.patch_embed.proj.weight)[0])
        assert len(calls) == 1 + recompute
        handle.remove()
    assert torch.equal(*found)


def test_masks_of_mvit_lie_on_any_whole_fraction_of_the_stem(generator):
    model = jitter(timm_mvit(use_cls_token=True))
    encoder, images = adapt(model), torch.randn(2, 3, 32, 32, generator=generator)
    assert (encoder.base, encoder.patch, encoder.dim, encoder.embed_dim) == ((4, 4), 8, 16, 8)
    token = torch.randn(8, generator=generator)
    coarse = draw(2, (2, 2), 1, generator)
    outs = [encoder(images, replace=mask, mask_token=token) for mask in (coarse, coarse.resize((4, 4)), coarse.resize((8, 8)))]
    assert torch.equal(outs[0].patches, outs[1].patches)
    assert torch.equal(outs[0].patches, outs[2].patches)
    layers = encoder(images, layers=(0, 1, 2)).layers
    assert [tuple(x.shape) for x in layers] == [(2, 65, 8), (2, 17, 16), (2, 17, 16)]
    for grid in ((3, 3), (16, 16), (2, 2, 2)):
        with pytest.raises(
            ValueError, match=r"adapt: got replace for batch 2 and grid .*; expected batch 2 and the stem's grid \(8, 8\) or a"
        ):
            encoder(images, replace=draw(2, grid, 1, generator), mask_token=token)


def test_a_mvit_without_position_tables_takes_any_size(generator):
    model, images = jitter(timm_mvit(rel_pos_type="")), torch.randn(2, 3, 24, 40, generator=generator)
    out = adapt(model)(images)
    assert out.grid == (3, 5)
    assert torch.equal(out.patches, model.forward_features(images))
