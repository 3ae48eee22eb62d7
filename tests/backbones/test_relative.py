"""Relative positions and BEiT: official numbers, a loop, other grids, kept tokens, initialisation, attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.backbones import ViT, load_official
from sslkit.backbones._relative import RelativePositionBias
from sslkit.maskers import RandomMasker, TokenMask
from sslkit.testing import proves

NAME = "backbones.ViT"


def tiny(size=(8, 12), **options):
    torch.manual_seed(0)
    model = ViT(size, 4, 16, 2, 2, positions="relative", **options).eval()
    torch.nn.init.normal_(model.rel_pos_bias.relative_position_bias_table, generator=torch.Generator().manual_seed(1))
    return model


@proves(NAME, "golden")
def test_official_bias(golden):
    g = golden("beit_model")
    for case in ("rpb0", "rpb1"):
        grid, table = tuple(g[f"{case}_hw"].tolist()), g.tensor(f"{case}_table")
        bias = RelativePositionBias(grid, table.shape[1])
        bias.load_state_dict({"relative_position_bias_table": table})
        assert torch.equal(bias(grid, 1), g.tensor(f"{case}_bias"))


@proves(NAME, "golden")
@proves("backbones.load_official", "golden")
def test_official_model(golden):
    """Logits, loss and gradients of BEiT on a picture that is not square."""
    g = golden("beit_model")
    height, width, patch, _, dim, depth, heads, ratio = g["cfg"].tolist()
    model = ViT((height, width), patch, dim, depth, heads, mlp_ratio=ratio, positions="relative", layer_scale=0.1, init="beit")
    weights = {name.removeprefix("sd."): g.tensor(name) for name in g if name.startswith("sd.")}
    assert load_official(model, weights, "beit") == ("mask_token", "lm_head.weight", "lm_head.bias")
    token, head = (weights[name].clone().requires_grad_() for name in ("mask_token", "lm_head.bias"))
    mask = TokenMask(g.tensor("mask", torch.bool), model.base)
    logits = model(g.tensor("imgs"), replace=mask, mask_token=token).patches @ weights["lm_head.weight"].T + head
    torch.testing.assert_close(logits, g.tensor("logits_all"), rtol=0, atol=2e-5)
    torch.testing.assert_close(logits[mask.mask], g.tensor("logits_masked"), rtol=0, atol=2e-5)
    loss = torch.nn.functional.cross_entropy(logits[mask.mask], g.tensor("token_ids", torch.int64)[mask.mask])
    torch.testing.assert_close(loss, g.tensor("loss"), rtol=2e-5, atol=0)
    loss.backward()
    bias = model.blocks[1].attn.qkv.bias.grad
    found = {
        "mask_token": token.grad,
        "lm_head.bias": head.grad,
        "rel_pos_bias.relative_position_bias_table": model.rel_pos_bias.relative_position_bias_table.grad,
        "blocks.0.gamma_1": model.blocks[0].ls1.gamma.grad,
        "blocks.1.attn.q_bias": bias[:dim],
    }
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, g.tensor(f"grad.{name}"), rtol=0, atol=2e-5)
    assert bias[dim : 2 * dim].abs().max() < 1e-8  # of the keys: it cancels in the softmax


@proves(NAME, "loop")
@settings(max_examples=25)
@given(height=st.integers(1, 4), width=st.integers(1, 4), prefix=st.integers(0, 2), kept=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_bias_is_a_number_for_each_difference(height, width, prefix, kept, seed):
    bias = RelativePositionBias((height, width), 2)
    table = torch.randn(bias.relative_position_bias_table.shape, generator=torch.Generator().manual_seed(seed))
    bias.load_state_dict({"relative_position_bias_table": table})
    whole = bias((height, width), prefix)
    places = [None] * prefix + [divmod(n, width) for n in range(height * width)]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            if a and b:
                row = (a[0] - b[0] + height - 1) * (2 * width - 1) + a[1] - b[1] + width - 1
            else:
                row = len(table) - (3 if b else 2 if a else 1)  # prefix to patch, patch to prefix, prefix to prefix
            assert torch.equal(whole[:, i, j], table[row])
    tokens = height * width
    ids = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed)).argsort(1)[:, : min(kept, tokens)]
    some = bias((height, width), prefix, ids)
    for b in range(2):
        rows = [*range(prefix), *(prefix + n for n in ids[b].tolist())]
        assert torch.equal(some[b], whole[:, rows][:, :, rows])


@proves(NAME, "property")
def test_a_model_sees_differences_only(generator):
    """Patches put elsewhere, all by the same step, look at each other as before: nothing else tells places."""
    model, patches = tiny(prefix=()), torch.randn(1, 6, 16, generator=generator)
    both = [model.blocks(patches[:, order], bias=model.rel_pos_bias((2, 3), 0, torch.tensor([ids])))[0] for order, ids in
            (([0, 1], [0, 1]), ([0, 1], [4, 5]))]  # fmt: skip
    torch.testing.assert_close(*both)
    apart = model.blocks(patches[:, [0, 1]], bias=model.rel_pos_bias((2, 3), 0, torch.tensor([[0, 5]])))[0]
    assert (apart - both[0]).abs().max() > 1e-3


@proves(NAME, "property")
def test_kept_tokens_equal_a_run_on_them_alone(generator):
    model, images = tiny(), torch.randn(2, 3, 8, 12, generator=generator)
    everything = RandomMasker(count=0)(2, (2, 3), generator=generator)
    torch.testing.assert_close(model(images, keep=everything).patches, model(images).patches)
    mask = RandomMasker(count=3)(2, (2, 3), generator=generator)
    hidden = mask.mask.view(2, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    seen = model(images, keep=mask).patches
    assert torch.equal(seen, model(torch.where(hidden, torch.nan, images), keep=mask).patches)
    assert (seen - mask.keep(model(images).patches)).abs().max() > 1e-4  # they no longer see the others


@proves(NAME, "property")
def test_attention_is_told_with_the_bias(generator):
    model, images = tiny(), torch.randn(1, 3, 8, 12, generator=generator)
    tokens = model(images, attention_of=0)
    q, k, v = model.blocks[0].attn._split(model.blocks[0].norm1(model.locate(*model.embed(images))))
    scores = q @ k.mT / math.sqrt(8) + model.rel_pos_bias((2, 3), 1)
    torch.testing.assert_close(tokens.attention, scores.softmax(-1))
    out = model.blocks[0].attn.proj((tokens.attention @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(
        out, model.blocks[0].attn(model.blocks[0].norm1(model.locate(*model.embed(images))), model.rel_pos_bias((2, 3), 1))
    )


@proves(NAME, "property")
def test_other_grids(generator):
    model = tiny()
    for size in ((8, 12), (16, 8), (4, 4)):
        assert model(torch.randn(1, 3, *size, generator=generator)).patches.isfinite().all()
    flat = RelativePositionBias((2, 3), 1)
    torch.nn.init.constant_(flat.relative_position_bias_table, 0.5)
    torch.testing.assert_close(flat((5, 4), 1), torch.full((1, 21, 21), 0.5))


@proves(NAME, "property")
def test_initialisation_of_beit():
    """Weights end at one standard deviation; the branches of block i are divided by sqrt(2 i)."""
    torch.manual_seed(0)
    model = ViT(16, 4, 64, 3, 2, positions="relative", layer_scale=0.1, init="beit")
    for i, block in enumerate(model.blocks, start=1):
        for weight in (block.attn.qkv.weight, block.mlp.fc1.weight):
            assert weight.abs().max() <= 0.02
            assert weight.std().item() == pytest.approx(0.02 * 0.54, rel=0.03)  # of a normal cut at one sigma
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            assert weight.abs().max() <= 0.02 / math.sqrt(2 * i)
            assert weight.std().item() == pytest.approx(0.02 * 0.54 / math.sqrt(2 * i), rel=0.05)
    assert model.patch_embed.proj.weight.abs().max() <= 0.02
    assert model.patch_embed.proj.bias.eq(0).all()
    assert 0 < model.cls_token.abs().max() <= 0.02
    assert model.rel_pos_bias.relative_position_bias_table.eq(0).all()


@proves(NAME, "errors")
def test_relative_positions_are_for_images():
    with pytest.raises(ValueError, match="relative ones only for images"):
        ViT(8, 4, 8, 1, 1, tubelet=2, frames=4, positions="relative")


def test_base_has_the_parameters_of_the_paper():
    with torch.device("meta"):
        model = ViT(224, 16, 768, 12, 12, positions="relative", layer_scale=0.1, init="timm")
    ours = sum(p.numel() for p in model.parameters()) + 768 + 768 * 8192 + 8192  # mask token, head
    assert ours - 12 * 768 == 91_965_776  # less the biases of keys, which BEiT does not have
