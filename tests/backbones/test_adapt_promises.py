"""What `adapt` promises of every model it knows."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backbones.adapted import APART, CASES, KEEPING, Flat, flat, jitter, pixels, timm_vit, torchvision_vit
from tests.backbones.vits import draw

from sslkit.backbones import MAE, adapt
from sslkit.testing import proves, resumes, stays_near_float32
from sslkit.testing.proofs import compiles, gradient_is_exact, pickles

NAME = "backbones.adapt"


@proves(NAME, "property")
@pytest.mark.parametrize("name", CASES)
def test_without_masks_the_features_are_the_models_own_bit_for_bit(name, generator):
    case = CASES[name]
    model, images = case.model(), case.images(generator)
    encoder = adapt(model)
    out = encoder(images, layers=(0, -1))
    assert torch.equal(flat(out), case.features(model, images))
    assert encoder.model is model
    assert out.grid == encoder.base == case.base
    assert out.patches.shape == (2, math.prod(case.base), encoder.dim)
    assert len(out.names) == out.prefix.shape[1]
    assert torch.equal(encoder.norm(out.layers[1]), flat(out))
    assert case.shape[0] == encoder.channels
    assert case.patch == encoder.patch
    assert case.kind == f"{encoder.library} {type(model).__name__}"


@proves(NAME, "property")
@pytest.mark.parametrize("name", CASES)
def test_the_model_is_left_as_it_was(name, generator):
    """Weights, modes and hooks, also after an error inside a block."""
    case = CASES[name]
    model, images = case.model(), case.images(generator)
    list(model.modules())[3].train()  # modes that differ inside the model stay as they are

    def look():
        hooks = [(m, n, dict(h)) for m in model.modules() for n, h in vars(m).items() if n.endswith("_hooks") and h]
        return {n: v.clone() for n, v in model.state_dict().items()}, [m.training for m in model.modules()], hooks, dir(model)

    before, features = look(), case.features(model, images)
    encoder = adapt(model)
    mask = draw(2, case.base, 3, generator)
    encoder(images, replace=mask, mask_token=torch.zeros(encoder.embed_dim), layers=(0,))
    if case.keeps:
        encoder(images, keep=mask)
    failing = list(encoder.blocks)[1]
    handle = failing.register_forward_pre_hook(lambda *inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder(images)
    handle.remove()
    for was, now in zip(before, look(), strict=True):
        if isinstance(was, dict):
            assert was.keys() == now.keys()
            assert all(torch.equal(was[n], now[n]) for n in was)
        else:
            assert was == now
    assert torch.equal(case.features(model, images), features)
    assert encoder.state_dict().keys() == {f"model.{n}" for n in model.state_dict()}


@proves(NAME, "loop")
@pytest.mark.parametrize("name", [n for n in KEEPING if "beit" not in n])
def test_keep_runs_the_models_blocks_on_the_tokens_that_remain(name, generator):
    case = CASES[name]
    model, images = case.model(), case.images(generator)
    encoder = adapt(model)
    mask = draw(2, case.base, 5, generator)
    out = encoder(images, keep=mask)
    whole = encoder.locate(*encoder.embed(images))
    front = len(encoder.prefix)
    for b in range(2):
        rows = [whole[b, i] for i in range(front)] + [whole[b, front + i] for i in range(math.prod(case.base)) if not mask.mask[b, i]]
        x = torch.stack(rows)[None]
        x = model.norm_pre(x) if hasattr(model, "norm_pre") else x
        for block in encoder.blocks:
            x = block(x)
        torch.testing.assert_close(flat(out)[b], encoder.norm(x)[0], rtol=1e-5, atol=1e-5)
    assert out.grid == case.base


@proves(NAME, "property")
@pytest.mark.parametrize("name", KEEPING)
def test_keeping_all_equals_keeping_none_out(name, generator):
    case = CASES[name]
    encoder, images = adapt(case.model()), case.images(generator)
    everything = draw(2, case.base, math.prod(case.base), generator)
    torch.testing.assert_close(flat(encoder(images, keep=everything)), flat(encoder(images)), rtol=1e-5, atol=1e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("name", APART)
@settings(max_examples=8)
@given(seed=st.integers(0, 99), share=st.floats(0, 1))
def test_no_hidden_value_reaches_a_result_or_a_gradient(name, seed, share):
    case, generator = CASES[name], torch.Generator().manual_seed(seed)
    encoder, images = adapt(case.model()), case.images(generator)
    mask = draw(2, case.base, round(share * math.prod(case.base)), generator)
    poisoned = images.masked_fill(pixels(mask, case.shape), torch.nan)
    token = torch.randn(encoder.embed_dim, generator=generator)
    parameters = list(encoder.model.parameters())
    for options in ({"keep": mask}, {"replace": mask, "mask_token": token}):
        clean, got = (flat(encoder(x, **options)) for x in (images, poisoned))
        assert torch.equal(clean, got)
        for a, b in zip(*(torch.autograd.grad(x.square().sum(), parameters, allow_unused=True) for x in (clean, got)), strict=True):
            assert a is b is None or torch.equal(a, b)


@proves(NAME, "property")
@pytest.mark.parametrize("name", CASES)
def test_replace(name, generator):
    """Nothing hidden: untouched. All hidden: the picture does not matter. Some: the sequence with the token in their places."""
    case = CASES[name]
    encoder, images, others = adapt(case.model()), case.images(generator), case.images(generator)
    token = torch.randn(1, 1, encoder.embed_dim, generator=generator, requires_grad=True)
    grid, tokens = case.base, math.prod(case.base)
    nothing, everything, some = (draw(2, grid, count, generator) for count in (tokens, 0, tokens // 2))
    out = encoder(images, replace=nothing, mask_token=token)
    assert torch.equal(flat(out), flat(encoder(images)))
    (gradient,) = torch.autograd.grad(flat(out).sum(), token)
    assert gradient.abs().max() == 0
    out = encoder(images, replace=everything, mask_token=token)
    for other in (others, torch.full_like(images, torch.nan)):  # a select, not a blend: of overlapping patches too
        assert torch.equal(flat(out), flat(encoder(other, replace=everything, mask_token=token)))
    (gradient,) = torch.autograd.grad(flat(out).square().sum(), token)
    assert gradient.abs().max() > 0
    if case.keeps:
        both = encoder(images, replace=some, mask_token=token, keep=some)  # what is replaced is then dropped
        torch.testing.assert_close(flat(both), flat(encoder(images, keep=some)), rtol=1e-5, atol=1e-5)


@proves(NAME, "loop")
@pytest.mark.parametrize("name", CASES)
def test_replace_is_a_hook_on_the_patch_embedding(name, generator):
    """As one drives these models by hand: a forward hook that puts the token in the hidden places of what the embedding returns."""
    case = CASES[name]
    model, images = case.model(), case.images(generator)
    encoder = adapt(model)
    token = torch.randn(encoder.embed_dim, generator=generator)
    mask = draw(2, case.base, 5, generator)
    got = flat(encoder(images, replace=mask, mask_token=token))
    _, grid = encoder.embed(images)
    hidden = mask.mask.view(2, *case.base)
    for axis, (n, m) in enumerate(zip(grid, case.base, strict=True), start=1):
        hidden = hidden.repeat_interleave(n // m, axis)

    def put(module, inputs, output):
        tokens, *rest = output if isinstance(output, tuple) else (output,)
        if tokens.ndim == 3:  # [batch, tokens, dim]
            tokens = torch.where(hidden.flatten(1)[..., None], token, tokens)
        elif "torchvision" in name:  # [batch, dim, (time,) height, width]
            tokens = torch.where(hidden[:, None], token.view(-1, *[1] * len(grid)), tokens)
        else:  # [batch, height, width, dim]
            tokens = torch.where(hidden[..., None], token, tokens)
        return (tokens, *rest) if isinstance(output, tuple) else tokens

    body = model.base_model.embeddings if hasattr(model, "base_model") else model
    part = next(getattr(body, n) for n in ("patch_embed", "patch_embeddings", "conv_proj") if hasattr(body, n))
    handle = part.register_forward_hook(put)
    expected = case.features(model, images)
    handle.remove()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_users_parameters(name, generator):
    """Those that the model itself would give; with masks, the same parameters take part."""
    case = CASES[name]
    model, images = case.model(), case.images(generator)
    encoder, parameters = adapt(model), list(model.parameters())

    def gradients(features):
        return torch.autograd.grad(features.square().sum(), parameters, allow_unused=True)

    own, got = gradients(case.features(model, images)), gradients(flat(encoder(images)))
    for a, b in zip(own, got, strict=True):
        assert a is b is None or torch.equal(a, b)
    mask = draw(2, case.base, 5, generator)
    options = {"keep": mask} if case.keeps else {"replace": mask, "mask_token": torch.zeros(encoder.embed_dim)}
    masked = gradients(flat(encoder(images, **options)))
    assert [g is None for g in masked] == [g is None for g in own]


@proves(NAME, "property")
@pytest.mark.parametrize("name", CASES)
def test_dropout_and_drop_path_act_as_in_the_model(name, generator):
    case = CASES[name]
    model, images = case.model().train(), case.images(generator, batch=4)
    rates = 0
    for part in model.modules():
        for rate in ("p", "drop_prob", "dropout", "attention_dropout", "prob"):
            if isinstance(getattr(part, rate, None), float):
                setattr(part, rate, 0.3)
                rates += 1
    assert rates
    encoder = adapt(model)
    assert encoder.training
    torch.manual_seed(3)
    expected = case.features(model, images)
    torch.manual_seed(3)
    assert torch.equal(flat(encoder(images)), expected)
    assert not torch.equal(flat(encoder(images)), expected)


@proves(NAME, "gradcheck")
@pytest.mark.parametrize("masked", ["keep", "replace"])
def test_gradient_is_exact(masked, generator):
    for model in (timm_vit(img_size=4, patch_size=2, embed_dim=4, depth=1, num_heads=2, mlp_ratio=1, num_classes=0), torchvision_vit()):
        encoder = adapt(jitter(model))
        mask = draw(1, encoder.base, 2, generator)
        options = (
            {"keep": mask} if masked == "keep" else {"replace": mask, "mask_token": torch.randn(encoder.dim, generator=generator).double()}
        )
        module = Flat(encoder, **options).double()
        images = torch.randn(1, 3, *[n * encoder.patch for n in encoder.base], generator=generator)
        if model.__module__.startswith("timm"):
            gradient_is_exact(module, (images,))
        else:
            assert torch.autograd.gradcheck(module, images.double().requires_grad_(), fast_mode=True)


@proves(NAME, "compile")
@pytest.mark.parametrize("name", ["timm vit", "timm dynamic", "timm beit both", "torchvision vit", "transformers vit", "transformers beit"])
@pytest.mark.parametrize("masked", ["", "keep", "replace"])
def test_compiles_to_one_graph(name, masked, generator):
    case = CASES[name]
    encoder, mask = adapt(case.model()), draw(2, case.base, 5, generator)
    token = torch.randn(encoder.embed_dim, generator=generator)
    options = {"": {"attention_of": 0}, "keep": {"keep": mask}, "replace": {"replace": mask, "mask_token": token}}[masked]
    compiles(Flat(encoder, **options), (case.images(generator),))


@proves(NAME, "half")
@pytest.mark.parametrize("name", ["timm registers", "timm beit both", "torchvision vit", "transformers dinov2", "transformers beit"])
def test_16_bit(name, generator):
    case = CASES[name]
    encoder = adapt(case.model())
    stays_near_float32(Flat(encoder, keep=draw(2, case.base, 5, generator)), (case.images(generator),))


@proves(NAME, "resume")
def test_a_resumed_model_goes_on_exactly():
    images = torch.linspace(-1, 1, 2 * 3 * 256).view(2, 3, 16, 16)

    def step(encoder):
        encoder.zero_grad()
        encoder(images).pooled().square().mean().backward()
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad

    resumes(adapt(jitter(timm_vit())), step, fresh=lambda: adapt(timm_vit()))


@proves(NAME, "pickle")
def test_copies_give_the_same(generator):
    case = CASES["timm vit"]
    pickles(Flat(adapt(case.model()), keep=draw(2, case.base, 5, generator)), (case.images(generator),))


def test_mae_takes_an_adapted_encoder(generator):
    for name in ("timm registers", "torchvision vit", "transformers deit"):
        case = CASES[name]
        model = MAE(adapt(case.model()), 8, 1, 2)
        images, mask = case.images(generator), draw(2, case.base, 5, generator)
        prediction = model(images, mask)
        assert prediction.shape == (2, 16, 48)
        poisoned = images.masked_fill(pixels(mask, case.shape), torch.inf)
        assert torch.equal(prediction, model(poisoned, mask))
        prediction.square().mean().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None and not n.startswith("encoder.")] == []
        assert any(p.grad is not None for p in model.encoder.parameters())


def test_a_compiled_model_is_taken_for_what_it_compiles(generator):
    model, images = jitter(torchvision_vit()), torch.randn(2, 3, 16, 16, generator=generator)
    assert torch.equal(flat(adapt(torch.compile(model, backend="eager"))(images)), flat(adapt(model)(images)))


def test_ddp_goes_around_the_adapter(generator):
    model, images = jitter(timm_vit(num_classes=0, fc_norm=False)), torch.randn(2, 3, 16, 16, generator=generator)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(adapt(model))
        for _ in range(2):  # a parameter without gradient fails the second forward pass
            wrapped(images, keep=draw(2, (4, 4), 5, generator)).pooled("mean").sum().backward()
        with pytest.raises(TypeError, match="adapt: got a model wrapped in DistributedDataParallel; expected the bare model"):
            adapt(torch.nn.parallel.DistributedDataParallel(model))
    finally:
        torch.distributed.destroy_process_group()


def test_no_library_is_imported_that_the_model_does_not_come_from():
    code = (
        "import sys\n"
        "for name in ('timm', 'transformers'): sys.modules[name] = None\n"
        "import torch\n"
        "from torchvision.models.vision_transformer import VisionTransformer\n"
        "from sslkit.backbones import adapt\n"
        "print(tuple(adapt(VisionTransformer(8, 4, 1, 2, 8, 8))(torch.zeros(1, 3, 8, 8)).patches.shape))\n"
    )
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "(1, 4, 8)"


@proves(NAME, "errors")
def test_models_that_are_not_known():
    with pytest.raises(TypeError, match=r"adapt: got a torch.nn.modules.linear.Linear; expected one of timm VisionTransformer, timm Beit, "
                                        r"timm MultiScaleVit, torchvision VisionTransformer, torchvision MViT, transformers ViTModel, .*"
                                        r"To mend: write a module"):  # fmt: skip
        adapt(torch.nn.Linear(1, 1))

    class Own(type(torchvision_vit())):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match=r"adapt: got a Own with a forward of its own; expected that of VisionTransformer. To mend"):
        adapt(Own(16, 4, 1, 2, 8, 8))
    with pytest.raises(
        ValueError, match=r"adapt: got a patch embedding PatchEmbed of patches \(4, 8\); expected a convolution, and square"
    ):
        adapt(timm_vit(patch_size=(4, 8)))
    model = torchvision_vit()
    model.conv_proj = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"adapt: got a patch embedding Identity of patches \(4, 4\); expected a convolution"):
        adapt(model)


@proves(NAME, "errors")
@pytest.mark.parametrize("name", CASES)
def test_errors_of_the_call(name, generator):
    case = CASES[name]
    encoder, images = adapt(case.model()), case.images(generator)
    mask, other = draw(2, case.base, 3, generator), draw(2, tuple(n + 1 for n in case.base), 3, generator)
    token = torch.zeros(encoder.embed_dim)
    with pytest.raises(ValueError, match=r"adapt: got replace without mask_token; expected both. To mend"):
        encoder(images, replace=mask)
    with pytest.raises(ValueError, match=r"adapt: got images \[.*\] of dtype torch.uint8; expected floating \[batch, "):
        encoder(images.to(torch.uint8))
    with pytest.raises(ValueError, match=r"adapt: got images \[2, 1, .*; expected floating \[batch, .*height, width\]. To mend: scale"):
        encoder(images[:, :1])
    with pytest.raises(ValueError, match=r"adapt: got layer 9; expected a number from -\d to \d. To mend"):
        encoder(images, layers=(9,))
    with pytest.raises(ValueError, match=r"adapt: got replace for batch 2 and grid .*; expected batch 2 and .*To mend: draw the mask with"):
        encoder(images, replace=other, mask_token=token)
    with pytest.raises(ValueError, match=r"adapt: got replace for batch 1 and grid .*; expected batch 2 and "):
        encoder(images, replace=draw(1, case.base, 3, generator), mask_token=token)
    if case.keeps:
        with pytest.raises(ValueError, match=r"adapt: got keep for batch 2 and grid .*; expected batch 2 and grid .*, as the images have"):
            encoder(images, keep=other)
    else:
        with pytest.raises(
            ValueError, match=r"adapt: got keep for a M.*V.*; expected a model whose blocks take any set of tokens. To mend: its"
        ):
            encoder(images, keep=mask)
    if not case.attends:
        with pytest.raises(
            ValueError, match=r"adapt: got attention_of for blocks of class (Multi|Para).*; expected attention over one set of tokens"
        ):
            encoder(images, attention_of=0)


def test_deep_copies_are_independent(generator):
    case = CASES["timm vit"]
    encoder, images = adapt(case.model()), case.images(generator)
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        other.model.cls_token.add_(1)
    assert not torch.equal(flat(other(images)), flat(encoder(images)))
