"""torchvision's models behind our interface: attention, channels, sizes, masks of MViT."""

import pytest
import torch
from tests.backbones.adapted import flat, jitter, torchvision_features, torchvision_mvit, torchvision_vit
from tests.backbones.vits import draw

from sslkit.backbones import adapt
from sslkit.testing import proves

NAME = "backbones.adapt"


@proves(NAME, "loop")
@pytest.mark.parametrize("training", [False, True])
def test_attention_is_what_the_block_uses(training, generator):
    model, images = jitter(torchvision_vit()).train(training), torch.randn(2, 3, 16, 16, generator=generator)
    out = adapt(model)(images, layers=(0,), attention_of=1)
    block = model.encoder.layers[1]
    x = block.ln_1(out.layers[0])
    _, expected = block.self_attention(x, x, x, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(out.attention, expected, rtol=1e-5, atol=1e-6)


def test_attention_is_that_before_the_dropout(generator):
    model, images = jitter(torchvision_vit(attention_dropout=0.5)), torch.randn(2, 3, 16, 16, generator=generator)
    still = adapt(model)(images, attention_of=0).attention
    assert torch.equal(adapt(model.train())(images, attention_of=0).attention, still)


@pytest.mark.parametrize("stem", ["channels", "convolutions"])
def test_other_stems(stem, generator):
    from torchvision.models.vision_transformer import ConvStemConfig

    if stem == "channels":
        model = torchvision_vit()
        model.conv_proj = torch.nn.Conv2d(5, 16, 4, 4)
    else:
        model = torchvision_vit(conv_stem_configs=[ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2)])
    encoder, images = adapt(jitter(model)), torch.randn(2, 5 if stem == "channels" else 3, 16, 16, generator=generator)
    assert encoder.channels == images.shape[1]
    assert torch.equal(flat(encoder(images)), torchvision_features(model, images))
    mask = draw(2, (4, 4), 5, generator)
    assert encoder(images, keep=mask).patches.shape == (2, 5, 16)


@proves(NAME, "errors")
def test_sizes_that_are_refused(generator):
    with pytest.raises(
        ValueError, match=r"adapt: got images of size \(20, 16\) for a VisionTransformer; expected \(16, 16\), the only size that"
    ):
        adapt(torchvision_vit())(torch.randn(1, 3, 20, 16, generator=generator))
    with pytest.raises(ValueError, match=r"adapt: got images of size \(6, 32, 32\) for a MViT; expected \(4, 32, 32\): its positions"):
        adapt(torchvision_mvit())(torch.randn(1, 3, 6, 32, 32, generator=generator))
    with pytest.raises(ValueError, match=r"adapt: got images \[1, 3, 32, 32\] .*; expected floating \[batch, 3, time, height, width\]"):
        adapt(torchvision_mvit())(torch.randn(1, 3, 32, 32, generator=generator))


def test_masks_of_mvit_lie_on_any_whole_fraction_of_the_stem(generator):
    model = jitter(torchvision_mvit())
    encoder, clips = adapt(model), torch.randn(2, 3, 4, 32, 32, generator=generator)
    assert (encoder.base, encoder.patch, encoder.tubelet, encoder.dim, encoder.embed_dim) == ((2, 4, 4), 8, 2, 16, 8)
    token = torch.randn(1, 1, 8, generator=generator)
    coarse = draw(2, (2, 2, 2), 3, generator)
    stem = coarse.resize((2, 8, 8))
    got = encoder(clips, replace=coarse, mask_token=token)
    assert torch.equal(flat(got), flat(encoder(clips, replace=coarse.resize((2, 4, 4)), mask_token=token)))
    patches, grid = encoder.embed(clips)
    assert grid == (2, 8, 8)
    x, thw = model.pos_encoding(torch.where(stem.mask[..., None], token, patches)), grid
    for block in model.blocks:
        x, thw = block(x, thw)
    assert torch.equal(flat(got), model.norm(x))
    assert [tuple(layer.shape) for layer in encoder(clips, layers=(0, 1)).layers] == [(2, 129, 16), (2, 33, 16)]
    for mask in (draw(2, (2, 3, 3), 1, generator), draw(2, (8, 8), 1, generator), draw(1, (2, 4, 4), 1, generator)):
        with pytest.raises(
            ValueError, match=r"adapt: got replace for batch . and grid .*; expected batch 2 and the stem's grid \(2, 8, 8\) or a"
        ):
            encoder(clips, replace=mask, mask_token=token)


def test_the_encoder_of_maskfeat(generator):
    """MViTv2-S as its video pre-training has it, the last stage without a stride, in a narrow form."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    k = [3, 3, 3]
    blocks = [
        MSBlockConfig(1, 8, 8, k, k, [1, 1, 1], [1, 8, 8]),
        MSBlockConfig(2, 8, 16, k, k, [1, 2, 2], [1, 4, 4]),
        MSBlockConfig(2, 16, 16, k, k, [1, 2, 2], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, k, k, [1, 1, 1], [1, 2, 2]),
    ]
    model = jitter(MViT((64, 64), 4, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=False))
    encoder = adapt(model)
    assert (encoder.base, encoder.patch, encoder.tubelet) == ((2, 4, 4), 16, 2)  # one token a cube of the target
    clips, mask = torch.randn(1, 3, 4, 64, 64, generator=generator), draw(1, (2, 2, 2), 4, generator)
    out = encoder(clips, replace=mask, mask_token=torch.zeros(8), layers=(-1,))
    assert out.grid == (2, 4, 4)
    torch.testing.assert_close(model.norm(out.layers[0])[:, 1:], out.patches)
