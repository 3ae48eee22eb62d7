"""Small models, pictures and masks for the tests, and the transformer written out in loops."""

import math

import torch
from torch import nn

from sslkit.backbones import ViT
from sslkit.maskers import TokenMask

CLIPS = {"tubelet": 2, "frames": 4}


def tiny(**options):
    """Weights of ordinary size everywhere, so that every part shows in the output."""
    torch.manual_seed(0)
    model = ViT(options.pop("image_size", 8), 4, 8, options.pop("depth", 2), 2, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def pictures(model, generator, batch=2, grid=None, dtype=torch.float32):
    grid = grid or model.base
    units = [model.tubelet] * (len(grid) - 2) + [model.patch] * 2
    size = [n * u for n, u in zip(grid, units, strict=True)]
    return torch.randn(batch, model.patch_embed.channels, *size, generator=generator, dtype=dtype)


def draw(batch, grid, kept, generator):
    return TokenMask.from_ids_keep(torch.rand(batch, math.prod(grid), generator=generator).argsort(dim=1)[:, :kept], grid)


def norm(x, layer):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention_by_loop(x, layer):
    """One sample [tokens, dim]: head by head, query by query. Returns the output and the weights [heads, tokens, tokens]."""
    tokens, dim = x.shape
    width = dim // layer.heads
    qkv = x @ layer.qkv.weight.T + (0 if layer.qkv.bias is None else layer.qkv.bias)
    rows, weights = [], []
    for h in range(layer.heads):
        q, k, v = (qkv[:, part * dim + h * width : part * dim + (h + 1) * width] for part in range(3))
        p = torch.stack([torch.stack([(q[i] * k[j]).sum() for j in range(tokens)]).div(width**0.5).exp() for i in range(tokens)])
        p = p / p.sum(dim=1, keepdim=True)
        weights.append(p)
        rows.append(p @ v)
    return torch.cat(rows, dim=1) @ layer.proj.weight.T + layer.proj.bias, torch.stack(weights)


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def forward_by_loop(model, images):
    """[batch, prefix + tokens, dim] after the final norm, and the attention of every block."""
    outputs, attentions = [], []
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    p, u = model.patch, model.tubelet or 1
    clips = images if images.ndim == 5 else images[:, :, None]
    weight = weight if weight.ndim == 5 else weight[:, :, None]
    for clip in clips:
        tokens = []
        for t in range(0, clip.shape[1], u):
            for i in range(0, clip.shape[2], p):
                for j in range(0, clip.shape[3], p):
                    tokens.append((weight * clip[:, t : t + u, i : i + p, j : j + p]).sum(dim=(1, 2, 3, 4)) + bias)
        x = torch.stack(tokens)
        slots = sum(model._has_slot)
        if model.positions == "separable":
            x = x + torch.stack([time + space for time in model.pos_embed_temporal[0] for space in model.pos_embed_spatial[0]])
            first = model.pos_embed_class[0]
        elif model.positions is not None:
            x, first = x + model.pos_embed[0, slots:], model.pos_embed[0, :slots]
        used = {"cls": 0, "dist": 0, "reg": 0}
        front, slot = [], 0
        for name, has in zip(model.prefix, model._has_slot, strict=True):
            token = getattr(model, f"{name}_token")[0, used[name]]
            front.append(token + first[slot] if has and model.positions else token)
            slot, used[name] = slot + has, used[name] + 1
        x = torch.stack([*front, *x])
        sample = []
        for block in model.blocks:
            out, weights = attention_by_loop(norm(x, block.norm1), block.attn)
            x = x + out * getattr(block.ls1, "gamma", 1)
            hidden = gelu(norm(x, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
            x = x + (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias) * getattr(block.ls2, "gamma", 1)
            sample.append(weights)
        outputs.append(norm(x, model.norm) if isinstance(model.norm, nn.LayerNorm) else x)
        attentions.append(torch.stack(sample))
    return torch.stack(outputs), torch.stack(attentions, dim=1)


KINDS = {
    "plain": {},
    "registers": {"prefix": ("cls", "dist", "reg", "reg"), "layer_scale": 0.5, "qkv_bias": False, "channels": 2},
    "no prefix": {"prefix": (), "image_size": (8, 12), "final_norm": False},
    "register slots": {"prefix": ("cls", "reg", "reg"), "prefix_positions": (False, True, True), "mlp_ratio": 1.5},
    "sincos": {"positions": "sincos", "norm_eps": 1e-5},
    "no positions": {"positions": None, "prefix": ("cls", "reg")},
    "tubelets": {**CLIPS, "channels": 1},
    "separable": {**CLIPS, "channels": 1, "positions": "separable"},
}
