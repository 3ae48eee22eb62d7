"""MaskFeat's MViT: its numbers, its table of stages, its masks."""

import re

import pytest
import torch

from sslkit.backbones import adapt, load_official, maskfeat_mvit
from sslkit.maskers import CubeMasker, TokenMask
from sslkit.testing import proves

NAME = "backbones.maskfeat_mvit"


def tiny(**options):
    torch.manual_seed(0)
    return adapt(maskfeat_mvit(64, 4, dim=8, stages=(1, 2, 3, 2), **options)).eval()


@proves(NAME, "loop")
def test_parameters_at_full_size():
    """36.25 M with the head that predicts 108 numbers a token; fine-tuning has shorter tables of relative positions in its last stage."""
    model = maskfeat_mvit()
    head = torch.nn.Linear(768, 108)
    count = sum(p.numel() for part in (model, head) for p in part.parameters())
    assert round(count / 1e6, 2) == 36.25
    encoder = adapt(model)
    assert (encoder.base, encoder.tubelet, encoder.dim, encoder.embed_dim) == ((8, 14, 14), 2, 768, 96)
    assert adapt(maskfeat_mvit(pretraining=False)).base == (8, 7, 7)


@proves(NAME, "loop")
def test_the_table_of_stages():
    """Channels in and out, heads, strides of queries and of keys and values of all 16 blocks."""
    rows = []
    for block in maskfeat_mvit().blocks:
        attn = block.attn
        q, kv = (1 if pool is None else pool.pool.stride[1] for pool in (attn.pool_q, attn.pool_k))
        rows.append((block.norm1.normalized_shape[0], block.mlp[3].out_features, attn.num_heads, q, kv))
    assert rows[0] == (96, 192, 1, 1, 8)
    assert rows[1:3] == [(192, 192, 2, 2, 4), (192, 384, 2, 1, 4)]
    assert rows[3:14] == [(384, 384, 4, 2, 2)] + [(384, 384, 4, 1, 2)] * 9 + [(384, 768, 4, 1, 2)]
    assert rows[14:] == [(768, 768, 8, 1, 2)] * 2
    last = maskfeat_mvit(pretraining=False).blocks[14:]
    assert [block.attn.pool_q.pool.stride[1] for block in last] == [2, 1]


@proves(NAME, "property")
def test_grids_and_channels_of_the_stages(generator):
    clips = torch.randn(1, 3, 4, 64, 64, generator=generator)
    for pretraining, sides in [(True, [16, 8, 8, 4, 4, 4, 4, 4]), (False, [16, 8, 8, 4, 4, 4, 2, 2])]:
        tokens = tiny(pretraining=pretraining)(clips, layers=range(8))
        assert [layer.shape[1:] for layer in tokens.layers] == [
            (1 + 2 * side**2, width) for side, width in zip(sides, [16, 16, 32, 32, 32, 64, 64, 64], strict=True)
        ]
        assert tokens.grid == (2, sides[-1], sides[-1])


@proves(NAME, "property")
def test_a_mask_of_nothing_changes_nothing_and_one_of_all_sees_nothing(generator):
    encoder = tiny()
    clips, others = torch.randn(2, 2, 3, 4, 64, 64, generator=generator)
    token = torch.randn(encoder.embed_dim, generator=generator)
    nothing, all_hidden = (TokenMask(torch.full((2, 32), flag), encoder.base) for flag in (False, True))
    assert torch.equal(encoder(clips, replace=nothing, mask_token=token).patches, encoder(clips).patches)
    assert torch.equal(*(encoder(x, replace=all_hidden, mask_token=token).patches for x in (clips, others)))
    cube = CubeMasker(0.4)(2, encoder.base, generator=generator)
    assert not torch.equal(encoder(clips, replace=cube, mask_token=token).patches, encoder(clips).patches)


@proves(NAME, "half")
def test_bf16_autocast_is_near(generator):
    encoder, clips = tiny(), torch.randn(1, 3, 4, 64, 64, generator=generator)
    expected = encoder(clips).patches
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = encoder(clips).patches
    assert (got - expected).norm() <= 0.05 * expected.norm()


@proves(NAME, "errors")
def test_wrong_input():
    for arguments, options, message in [
        (
            (100, 16),
            {},
            "maskfeat_mvit: got image_size=100, frames=16; expected multiples of 16 and 2. To mend: pass image_size=96, frames=16",
        ),
        ((112, 16), {"pretraining": False}, "expected multiples of 32 and 2"),
        ((96, 5), {}, "frames=6"),
        ((96, 4), {"stages": (1, 0)}, "got stage1=0; expected a whole stage1 from 1 on"),
        ((96, 4), {"dim": 0}, "got dim=0"),
        ((96, 4), {"stages": (1,)}, r"got stages=\(1,\); expected blocks of two stages or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            maskfeat_mvit(*arguments, **options)
    encoder = tiny()
    for shape in ((3, 64, 64), (4, 61, 64), (4, 64, 80)):  # of these the stem makes the grid of (4, 64, 64), or another one
        with pytest.raises(ValueError, match=r"for a MViT; expected \(4, 64, 64\): its positions are tables for a grid \(2, 16, 16\)"):
            encoder(torch.zeros(1, 3, *shape))


@proves("backbones.load_official", "property")
def test_slowfast_names_arrive(generator):
    """The published names, written out for one block that widens and one that does not; every value in its place, nothing else accepted."""
    published = {
        "cls_token": "pos_encoding.class_token", "patch_embed.proj.weight": "conv_proj.weight", "patch_embed.proj.bias": "conv_proj.bias",
        "blocks.0.norm1.weight": "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias": "blocks.0.attn.qkv.bias",
        "blocks.0.attn.rel_pos_t": "blocks.0.attn.rel_pos_t", "blocks.0.attn.proj.weight": "blocks.0.attn.project.0.weight",
        "blocks.0.attn.pool_q.weight": "blocks.0.attn.pool_q.pool.weight",
        "blocks.0.attn.norm_q.bias": "blocks.0.attn.pool_q.norm_act.0.bias",
        "blocks.0.attn.pool_v.weight": "blocks.0.attn.pool_v.pool.weight", "blocks.0.mlp.fc1.weight": "blocks.0.mlp.0.weight",
        "blocks.0.mlp.fc2.bias": "blocks.0.mlp.3.bias", "blocks.0.proj.weight": "blocks.0.project.weight",
    }  # fmt: skip
    back = [(r"^conv_proj", "patch_embed.proj"), (r"^pos_encoding.class_token", "cls_token"), (r"attn.project.0", "attn.proj"),
            (r"(pool_.).pool", r"\1"), (r"pool_(.).norm_act.0", r"norm_\1"), (r"mlp.0", "mlp.fc1"), (r"mlp.3", "mlp.fc2"),
            (r"(blocks.\d+).project", r"\1.proj")]  # fmt: skip
    source, file = tiny(), {}
    for name, tensor in source.model.state_dict().items():
        if name.startswith("norm."):
            continue
        for pattern, replacement in back:
            name = re.sub(pattern, replacement, name)
        file[name] = torch.randn(tensor.shape, generator=generator)
    assert published.keys() <= file.keys()
    file["cls_token"] = file["cls_token"].view(1, 1, -1)
    model = tiny()
    head = {"mask_token": torch.zeros(1, 1, 8), "pred_head.projections.0.weight": torch.zeros(2),
            "hogs.0.weight_x": torch.zeros(3, 1, 3, 3)}  # fmt: skip
    assert set(load_official(model, {"model_state": {**file, **head}}, "maskfeat")) == head.keys()
    weights = model.model.state_dict()
    for name, place in published.items():
        assert torch.equal(weights[place], file[name].flatten() if name == "cls_token" else file[name])
    with pytest.raises(ValueError, match=r"1 missing \(conv_proj.bias\)"):
        load_official(model, {name: value for name, value in file.items() if name != "patch_embed.proj.bias"}, "maskfeat")
