"""The vision transformer: initialisation, gradients, compilation, half precision, saved and copied."""

import copy
import math

import pytest
import torch
from tests.backbones.vits import KINDS, draw, forward_by_loop, pictures, tiny
from torch import nn

from sslkit.backbones import ViT
from sslkit.backbones._blocks import drop_path
from sslkit.testing import proves, resumes
from sslkit.testing.proofs import compiles, gradient_is_exact, pickles

NAME = "backbones.ViT"


def test_drop_path_rates_and_mean():
    model = tiny(drop_path=0.4, depth=5)
    assert [block.drop_path for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    x = torch.ones(4000, 3, 2)
    torch.manual_seed(0)
    out = drop_path(x, 0.4, True)
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 1 / 0.6])
    assert abs((per_sample[:, 0] == 0).float().mean() - 0.4) < 4 * (0.24 / 4000) ** 0.5
    assert drop_path(x, 0.4, False) is x
    images = torch.randn(8, 3, 8, 8)
    assert torch.equal(model(images).patches, model(images).patches)
    model.train()
    assert not torch.equal(model(images).patches, model(images).patches)


@pytest.mark.parametrize("init", ["timm", "dino", "mae"])
def test_published_initialisations(init):
    torch.manual_seed(0)
    model = ViT(128, 8, 128, 2, 2, init=init, prefix=("cls", "reg", "reg", "reg"), layer_scale=1e-5)
    tokens = {"timm": (1e-6, 1e-6), "dino": (0.02, 1e-6), "mae": (0.02, 0.02)}[init]
    assert model.cls_token.std().item() == pytest.approx(tokens[0], rel=0.3)
    assert model.reg_token.std().item() == pytest.approx(tokens[1], rel=0.3)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    for linear, fan in [(model.blocks[1].attn.qkv, 128 + 384), (model.blocks[0].mlp.fc1, 128 + 512)]:
        assert linear.weight.std().item() == pytest.approx((2 / fan) ** 0.5 if init == "mae" else 0.02, rel=0.05)
        assert linear.bias.abs().max() == 0
    fan_in, conv = 3 * 64, model.patch_embed.proj
    bound = (6 / (fan_in + 128)) ** 0.5 if init == "mae" else fan_in**-0.5
    assert 0.95 * bound < conv.weight.abs().max().item() <= bound
    assert 0 < conv.bias.abs().max().item() <= fan_in**-0.5
    assert (model.norm.weight == 1).all()
    assert (model.blocks[0].ls1.gamma == 1e-5).all()


class Summed(nn.Module):
    """Images -> one tensor, through the parts named."""

    def __init__(self, model, mask=None, hide=None, token=None):
        super().__init__()
        self.model, self.mask, self.hide = model, mask, hide
        self.token = None if token is None else nn.Parameter(token)

    def forward(self, images):
        out = self.model(images, keep=self.mask, replace=self.hide, mask_token=self.token, layers=(0,), attention_of=-1)
        return torch.cat([out.prefix, out.patches, out.layers[0], out.attention[:, :1].sum(dim=1) @ out.layers[0]], dim=1)


@proves(NAME, "gradcheck")
@pytest.mark.parametrize("kind", ["registers", "separable"])
def test_gradient_is_exact(kind, generator):
    model = tiny(**{**KINDS[kind], "depth": 1})
    images = pictures(model, generator, batch=1)
    mask = draw(1, model.base, math.prod(model.base) // 2, generator)
    gradient_is_exact(Summed(model, mask), (images,))
    model = model.double()
    names = [n for n, _ in model.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

    def run(*values):
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (images.double(),), {"keep": mask})
        return torch.cat([out.prefix, out.patches], dim=1)

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@proves(NAME, "compile")
@pytest.mark.parametrize("way", ["full", "keep", "replace", "separable"])
def test_compiles_to_one_graph(way, generator):
    """Read on another grid, and in training mode, whose drop path has rate 0 in a single block."""
    kind = {**KINDS["separable" if way == "separable" else "registers"], "depth": 1, "drop_path": 0.5, "resample": "antialias"}
    model = tiny(**kind).train(way != "full")
    grid = {"full": (2, 2), "separable": (2, 1, 3)}.get(way, (3, 2))
    images = pictures(model, generator, grid=grid)
    mask = draw(2, grid, 2, generator)
    token = torch.randn(1, 1, 8, generator=generator)
    fn = Summed(model, mask if way == "keep" else None, mask if way == "replace" else None, token if way == "replace" else None)
    compiles(fn, (images,))


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_as_plain_torch_does(dtype, generator):
    """Under autocast and with 16-bit weights: at most twice the error of the stages written out in the same dtype."""
    model = tiny(**KINDS["registers"])
    images = pictures(model, generator, batch=4)
    with torch.no_grad():
        expected = model(images).patches
        rounded = copy.deepcopy(model).to(dtype)
        plain = forward_by_loop(rounded, images.to(dtype))[0][:, len(model.prefix) :].float()
        own = (plain - expected).norm()
        with torch.autocast("cpu", dtype):
            under = model(images, attention_of=0)
        assert under.attention.dtype == torch.float32
        for got in (under.patches, rounded(images.to(dtype)).patches):
            assert got.isfinite().all()
            assert (got.float() - expected).norm() <= 2 * own
    assert rounded(images.to(dtype)).patches.dtype == dtype


@proves(NAME, "resume")
def test_a_resumed_model_goes_on_exactly():
    def step(model):
        images = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
        model.zero_grad()
        model(images).pooled().square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad

    resumes(tiny(), step, fresh=lambda: ViT(8, 4, 8, 2, 2))


@proves(NAME, "resume")
@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_names(kind):
    state = tiny(**KINDS[kind]).state_dict()
    fresh = ViT(KINDS[kind].get("image_size", 8), 4, 8, 2, 2, **{k: v for k, v in KINDS[kind].items() if k != "image_size"})
    fresh.load_state_dict(state)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, state[name])
    if kind == "separable":
        assert {n for n in state if n.startswith("pos")} == {"pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"}


@proves(NAME, "pickle")
def test_copies_give_the_same(generator):
    model = tiny(**KINDS["registers"], drop_path=0.1)
    pickles(model, (pictures(model, generator),))
