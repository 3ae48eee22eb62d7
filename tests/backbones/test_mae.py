"""The masked autoencoder: the official model's numbers and gradients, the decoder token by token, what it may see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.backbones import MAE, ViT, load_official
from sslkit.maskers import TokenMask
from sslkit.patches import patchify
from sslkit.testing import proves, resumes
from sslkit.testing.proofs import compiles, gradient_is_exact, pickles

NAME = "backbones.MAE"
CLIP = {"tubelet": 2, "frames": 4, "positions": "separable", "channels": 1}


def tiny(decoder_dim=8, **options):
    """Weights of ordinary size everywhere, so that every part shows in the output."""
    torch.manual_seed(0)
    options = {"positions": "sincos", "init": "mae", **options}
    model = MAE(ViT(8, 4, 8, 1, 2, **options), decoder_dim, 1, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def draw(batch, grid, kept, generator):
    return TokenMask.from_ids_keep(torch.rand(batch, math.prod(grid), generator=generator).argsort(dim=1)[:, :kept], grid)


def pictures(model, generator, batch=2, grid=None, dtype=torch.float32):
    encoder, grid = model.encoder, grid or model.encoder.base
    units = [encoder.tubelet] * (len(grid) - 2) + [encoder.patch] * 2
    size = [n * u for n, u in zip(grid, units, strict=True)]
    return torch.randn(batch, encoder.patch_embed.channels, *size, generator=generator, dtype=dtype)


def loss_of(prediction, images, patch, hidden, normalise):
    """Mean over hidden tokens of the mean squared error, against pixels or pixels normalised per token."""
    target = patchify(images, patch)
    if normalise:
        target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (prediction - target).square().mean(dim=-1)[hidden].mean()


@proves(NAME, "golden")
@proves("backbones.load_official", "golden")
def test_official_model(golden):
    official = golden("mae_tiny_model")
    image, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads, mlp_ratio = official["config"].tolist()
    encoder = ViT(image, patch, dim, depth, heads, positions="sincos", mlp_ratio=mlp_ratio, init="mae")
    model = MAE(encoder, decoder_dim, decoder_depth, decoder_heads, mlp_ratio=mlp_ratio)
    state = {name.removeprefix("sd."): official.tensor(name) for name in official if name.startswith("sd.")}
    torch.testing.assert_close(model.decoder_pos_embed, state["decoder_pos_embed"], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.pos_embed, state["pos_embed"], rtol=0, atol=1e-6)
    assert load_official(model, {"model": state, "epoch": 1}, "mae") == ()
    assert encoder.resample == "size"

    images, order = official.tensor("imgs"), official.tensor("noise").argsort(dim=1)
    kept = official["latent"].shape[1] - 1
    mask = TokenMask.from_ids_keep(order[:, :kept], encoder.base)
    assert torch.equal(mask.mask, official.tensor("mask", torch.bool))
    latent = official.tensor("latent")
    sort = order[:, :kept].argsort(dim=1)[..., None].expand(-1, -1, dim)  # the official code keeps the order of the noise
    tokens = encoder(images, keep=mask)
    torch.testing.assert_close(tokens.prefix, latent[:, :1], rtol=0, atol=2e-5)
    torch.testing.assert_close(tokens.patches, latent[:, 1:].gather(1, sort), rtol=0, atol=2e-5)
    torch.testing.assert_close(model(images, mask), official.tensor("pred"), rtol=0, atol=2e-5)
    for normalise in (0, 1):
        model.zero_grad()
        loss = loss_of(model(images, mask), images, patch, mask.mask, normalise)
        torch.testing.assert_close(loss, official.tensor(f"loss_norm{normalise}"), rtol=1e-5, atol=0)
        loss.backward()
        gradients = {name.removeprefix("encoder."): p.grad for name, p in model.named_parameters()}
        for name in official:
            if name.startswith(f"grad{normalise}."):
                expected = official.tensor(name)
                error = (gradients[name.split(".", 1)[1]] - expected).abs().max()
                assert error <= 1e-4 * expected.abs().max(), name
    encoder_alone = ViT(image, patch, dim, depth, heads, mlp_ratio=mlp_ratio)
    dropped = load_official(encoder_alone, state, "mae")
    assert set(dropped) == {name for name in state if name.startswith("decoder_") or name == "mask_token"}
    torch.testing.assert_close(encoder_alone(images, keep=mask).patches, tokens.patches)


@proves(NAME, "golden")
@pytest.mark.parametrize(
    ("size", "published"), [((16, 768, 12, 12), 111_655_680), ((16, 1024, 24, 16), 329_239_296), ((14, 1280, 32, 16), 656_613_964)]
)
def test_published_parameter_counts(size, published):
    with torch.device("meta"):
        model = MAE(ViT(224, *size, positions="sincos"))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == published


@proves(NAME, "loop")
@pytest.mark.parametrize("options", [{}, {"prefix": ("cls", "reg", "reg")}, {"prefix": ()}, {**CLIP, "decoder_dim": 16}])
def test_decoder_token_by_token(options, generator):
    model = tiny(**options).double()
    images, grid = pictures(model, generator, dtype=torch.float64), model.encoder.base
    mask = draw(2, grid, 2, generator)
    prediction = model(images, mask)
    tokens = model.encoder(images, keep=mask)
    front = len(model.encoder.prefix)
    for b in range(2):
        rows = [model.decoder_embed(token) + model.decoder_pos_embed[0, i] for i, token in enumerate(tokens.prefix[b])]
        visible = iter(tokens.patches[b])
        for n in range(math.prod(grid)):
            row = model.mask_token[0, 0] if mask.mask[b, n] else model.decoder_embed(next(visible))
            rows.append(row + model.decoder_pos_embed[0, front + n])
        x, _, _ = model.decoder_blocks(torch.stack(rows)[None])
        for n in range(math.prod(grid)):
            expected = model.decoder_pred(model.decoder_norm(x[0, front + n]))
            torch.testing.assert_close(prediction[b, n], expected, rtol=1e-9, atol=1e-9)
    assert model.decoder_pos_embed[0, :front].abs().sum() == 0
    assert prediction.shape[2] == model.values == (32 if "tubelet" in options else 48)


@proves(NAME, "property")
@given(grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_prediction_ignores_hidden_pixels(grid, share, seed):
    generator = torch.Generator().manual_seed(seed)
    model = tiny()
    images = pictures(model, generator, grid=grid)
    mask = draw(2, grid, round(share * math.prod(grid)), generator)
    hidden = mask.mask.view(2, 1, *grid).repeat_interleave(4, 2).repeat_interleave(4, 3)
    prediction = model(images, mask)
    assert torch.equal(prediction, model(images.masked_fill(hidden, torch.nan), mask))
    assert prediction.shape == (2, math.prod(grid), 48)


def test_the_loss_trains_every_part(generator):
    model = tiny(positions="learned")
    images = pictures(model, generator)
    mask = draw(2, model.encoder.base, 2, generator)
    loss_of(model(images, mask), images, 4, mask.mask, True).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_the_decoder_starts_as_published_and_leaves_the_encoder_alone():
    torch.manual_seed(0)
    encoder = ViT(32, 4, 64, 1, 2, positions="sincos", init="mae")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = MAE(encoder, 128, 1, 2)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    bound = (6 / (64 + 128)) ** 0.5
    assert 0.95 * bound < model.decoder_embed.weight.abs().max().item() <= bound
    assert model.decoder_pred.bias.abs().max() == 0


class Masked(torch.nn.Module):
    def __init__(self, model, mask):
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, images):
        return self.model(images, self.mask)


@proves(NAME, "gradcheck")
def test_gradient_is_exact(generator):
    model = tiny(prefix=("cls", "reg"))
    images, mask = pictures(model, generator, batch=1), draw(1, (2, 2), 2, generator)
    gradient_is_exact(Masked(model, mask), (images,))
    model = model.double()
    names = [name for name, _ in model.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

    def run(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (images.double(), mask))

    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@proves(NAME, "compile")
def test_compiles_to_one_graph(generator):
    model = tiny(prefix=("cls", "reg"))
    compiles(Masked(model, draw(2, (3, 2), 2, generator)), (pictures(model, generator, grid=(3, 2)),))


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype, generator):
    """Bound: about thirty roundings lie on the way of a number; each errs by eps / 2, and they add up like a random walk."""
    model = tiny()
    images, mask = pictures(model, generator), draw(2, (2, 2), 2, generator)
    expected = model(images, mask)
    with torch.autocast("cpu", dtype):
        under = model(images, mask)
    for got in (under, model.to(dtype)(images.to(dtype), mask)):
        assert got.dtype == dtype
        assert (got.float() - expected).norm() <= 30**0.5 * torch.finfo(dtype).eps * expected.norm()


@proves(NAME, "resume")
def test_a_resumed_model_goes_on_exactly():
    mask = TokenMask.from_ids_keep(torch.tensor([[0, 3], [1, 2]]), (2, 2))
    images = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)

    def step(model):
        model.zero_grad()
        loss_of(model(images, mask), images, 4, mask.mask, True).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad

    resumes(tiny(), step, fresh=lambda: MAE(ViT(8, 4, 8, 1, 2, positions="sincos"), 8, 1, 2))


@proves(NAME, "pickle")
def test_copies_give_the_same(generator):
    model = tiny()
    pickles(Masked(model, draw(2, (2, 2), 2, generator)), (pictures(model, generator),))


@proves(NAME, "errors")
def test_errors(generator):
    model = tiny()
    images = pictures(model, generator)
    with pytest.raises(
        TypeError, match=r"MAE: got encoder of type Linear; expected a sslkit.backbones.ViT, or what adapt returns. To mend: pass"
    ):
        MAE(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"sincos_positions: got dim=6 for grid \(2, 2\); expected a multiple of 4"):
        MAE(model.encoder, 6, 1, 2)
    with pytest.raises(ValueError, match=r"Attention: got dim=8, heads=3"):
        MAE(model.encoder, 8, 1, 3)
    with pytest.raises(ValueError, match=r"ViT: got keep for batch 3 and grid \(2, 2\); expected batch 2 and grid \(2, 2\)"):
        model(images, draw(3, (2, 2), 1, generator))


def test_other_targets_have_their_own_number_of_values(generator):
    torch.manual_seed(0)
    model = MAE(ViT(8, 4, 8, 1, 2, positions="sincos"), 8, 1, 2, values=5)
    mask = draw(2, (2, 2), 2, generator)
    assert model(pictures(model, generator), mask).shape == (2, 4, model.values) == (2, 4, 5)
    with pytest.raises(ValueError, match="MAE: got values=0; expected a whole number from 1 on. To mend"):
        MAE(ViT(8, 4, 8, 1, 2), 8, 1, 2, values=0)
