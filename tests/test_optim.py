"""Layer decay and LARS against MAE's numbers, the names of a ViT wherever it stands; DINO's groups, clipping and dropped gradients."""

import copy
import io
import math
import re
from functools import partial

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import Lars, param_groups_layer_decay
from torch import nn

from sslkit.backbones import MAE, ViT
from sslkit.optim import clip_each, dino_groups, drop_gradients, layer_decay_groups
from sslkit.testing import proves

DEPTH = 3


def tiny(depth=DEPTH, **options):
    torch.manual_seed(0)
    return ViT(8, 4, 8, depth, 2, **options)


class Around(nn.Module):
    """A classifier around a ViT."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 2))  # of something else than the ViT
        self.head = nn.Linear(encoder.dim, 5)


def settings(model, groups):
    """name -> (lr_scale, weight_decay); a parameter in two groups fails."""
    names = {id(p): name for name, p in model.named_parameters()}
    rows = [(names[id(p)], (group["lr_scale"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@proves("optim.layer_decay_groups", "golden")
def test_layer_decay_equals_maes(golden):
    g = golden("mae_recipe")
    names, scales, decays = (g[key].tolist() for key in ("lrd_names", "lrd_scale", "lrd_wd"))
    depth = 1 + max(int(number) for name in names for number in re.findall(r"blocks\.(\d+)\.", name))
    model = tiny(depth, final_norm=False)
    model.fc_norm, model.head = nn.LayerNorm(8), nn.Linear(8, 5)
    groups = layer_decay_groups(model, weight_decay=max(decays), decay=max(scale for scale in scales if scale < 1))
    got = settings(model, groups)
    assert sorted(got) == sorted(names)
    for name, *expected in zip(names, scales, decays, strict=True):
        assert got[name] == pytest.approx(tuple(expected), abs=1e-12), name


@proves("optim.layer_decay_groups", "golden")
def test_a_rate_times_the_scale_is_that_of_maes_group(golden):
    """`mae_lr` holds the rates of a plain group and of one three layers below."""
    g = golden("mae_recipe")
    base = max(scale for scale in g["lrd_scale"].tolist() if scale < 1)
    groups = layer_decay_groups(tiny(), weight_decay=0.05, decay=base)
    scales = {group["lr_scale"] for group in groups}
    (third,) = [scale for scale in scales if scale == pytest.approx(base**3, abs=1e-12)]
    assert (g["mae_lr"][:, 0] * third).tolist() == pytest.approx(g["mae_lr"][:, 1].tolist(), abs=1e-12)


@proves("optim.layer_decay_groups", "loop")
def test_layer_decay_equals_the_formula_name_by_name():
    model = Around(tiny(prefix=("cls", "dist", "reg", "reg"), layer_scale=0.1))
    expected = {}
    for name, parameter in model.named_parameters():
        layer = DEPTH + 1
        for i in range(DEPTH):
            if name.startswith(f"encoder.blocks.{i}."):
                layer = i + 1
        if name.startswith("encoder.patch_embed."):
            layer = 0
        token = name in ("encoder.cls_token", "encoder.dist_token", "encoder.reg_token", "encoder.pos_embed")
        scale = 1.0
        for _ in range(DEPTH + 1 - (0 if token else layer)):
            scale *= 0.7
        expected[name] = (pytest.approx(scale), 0.0 if token or parameter.ndim <= 1 else 0.1)
    assert settings(model, layer_decay_groups(model, weight_decay=0.1, decay=0.7)) == expected


@proves("optim.layer_decay_groups", "loop")
def test_layer_decay_equals_timms_for_a_model_of_timm():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=2, num_classes=3, global_pool="avg")
    theirs = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.65)
    mine = layer_decay_groups(model, weight_decay=0.05, decay=0.65)
    assert settings(model, mine) == settings(model, theirs)


@proves("optim.layer_decay_groups", "property")
@given(depth=st.integers(1, 12), decay=st.floats(0.1, 1), weight_decay=st.floats(0, 1))
def test_every_parameter_is_in_one_group_and_rates_rise_towards_the_head(depth, decay, weight_decay):
    with torch.device("meta"):
        model = Around(ViT(8, 4, 8, depth, 2))
    groups = layer_decay_groups(model, weight_decay=weight_decay, decay=decay)
    assert sorted(settings(model, groups)) == sorted(name for name, _ in model.named_parameters())
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales)
    assert scales[-1] == 1
    assert len(groups) == 2 * (depth + 2)
    assert scales[0] == pytest.approx(decay ** (depth + 1))
    assert {group["weight_decay"] for group in groups} == {0.0, weight_decay}


@proves("optim.layer_decay_groups", "property")
@pytest.mark.parametrize("options", [{"positions": "sincos"}, {"prefix": ()}, {"positions": None}, {"prefix": ("cls", "reg")}])
def test_wrapping_changes_no_setting(options):
    model = tiny(**options)
    expected = settings(model, layer_decay_groups(model, weight_decay=0.05, decay=0.5))
    for wrap in (Around, partial(torch.compile, backend="eager"), lambda m: nn.Sequential(m, nn.Identity()), lambda m: MAE(m, 16, 2, 2)):
        outer = wrap(copy.deepcopy(model))
        inner = {
            name: value
            for name, value in settings(outer, layer_decay_groups(outer, weight_decay=0.05, decay=0.5)).items()
            if name.startswith(("encoder.", "_orig_mod.", "0."))
        }
        assert {name.split(".", 1)[1]: value for name, value in inner.items()} == expected


@proves("optim.layer_decay_groups", "property")
def test_separable_positions_are_positions():
    model = ViT(8, 4, 16, 2, 2, tubelet=1, frames=2, positions="separable")
    got = settings(model, layer_decay_groups(model, weight_decay=0.05, decay=0.5))
    assert {got[f"pos_embed_{part}"] for part in ("spatial", "temporal", "class")} == {(0.125, 0.0)}


@proves("optim.layer_decay_groups", "property")
def test_frozen_parameters_are_left_out_and_keep_their_layer():
    model = tiny()
    before = settings(model, layer_decay_groups(model, weight_decay=0.05, decay=0.5))
    for frozen in (model.patch_embed, model.blocks[0], model.blocks[-1]):
        frozen.requires_grad_(False)
    after = settings(model, layer_decay_groups(model, weight_decay=0.05, decay=0.5))
    assert set(after) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert after.items() <= before.items()


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * group.get("lr_scale", 1.0)
        optimizer.zero_grad()
        model(images).patches.square().sum().backward()
        optimizer.step()


def test_decay_1_is_plain_training():
    """Tensors of one axis and positions have no decay in either run; 0 decay leaves nothing else to differ."""
    one, other = tiny(), tiny()
    train(one, torch.optim.AdamW(layer_decay_groups(one, weight_decay=0.0, decay=1.0)), 3)
    train(other, torch.optim.AdamW(other.parameters(), weight_decay=0.0), 3)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_resumed_run_goes_on_exactly():
    def start():
        model = tiny()
        return model, torch.optim.AdamW(layer_decay_groups(model, weight_decay=0.05, decay=0.65))

    model, optimizer = start()
    train(model, optimizer, 2)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    resumed, again = start()
    for part, state in zip((resumed, again), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert [group["lr_scale"] for group in again.param_groups] == [group["lr_scale"] for group in optimizer.param_groups]
    train(model, optimizer, 2, first=2)
    train(resumed, again, 2, first=2)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@proves("optim.layer_decay_groups", "errors")
@pytest.mark.parametrize("wrong", [{"decay": 0}, {"weight_decay": -1}, {"weight_decay": float("inf")}])
def test_errors_in_the_numbers(wrong):
    with pytest.raises(ValueError, match=r"layer_decay_groups: got decay=.*expected decay in \(0, 1\].*To mend: decay=0.75"):
        layer_decay_groups(tiny(), **{"weight_decay": 0.05, "decay": 0.75, **wrong})
    with pytest.raises(ValueError, match=r"layer_decay_groups: got decay=1.5; expected decay in \[0, 1\]. To mend"):
        layer_decay_groups(tiny(), weight_decay=0.05, decay=1.5)


@proves("optim.layer_decay_groups", "errors")
def test_errors_in_the_model():
    with pytest.raises(ValueError, match="got Linear with blocks in no place; expected the blocks of one transformer.*To mend: pass a ViT"):
        layer_decay_groups(nn.Linear(2, 2), weight_decay=0.05, decay=0.75)
    two = nn.ModuleDict({"student": tiny(), "teacher": tiny()})
    with pytest.raises(ValueError, match=r"ModuleDict with blocks in \['student.', 'teacher.'\]"):
        layer_decay_groups(two, weight_decay=0.05, decay=0.75)


def lars(parameters, lr, momentum, trust):
    """timm's LARS as MAE's linear probe has it; the example of docs/reference/stem.md."""
    wide, other = ([p for p in parameters if (p.ndim > 1) == adapts] for adapts in (True, False))
    return Lars([{"params": wide, "always_adapt": True}, {"params": other}], lr=lr, momentum=momentum, trust_coeff=trust)


def test_timms_lars_equals_maes(golden):
    """Weight decay goes into the gradient first: timm's own is in its trust ratio as |g| + decay * |w|, MAE's as |g + decay * w|."""
    g = golden("mae_recipe")
    lr, decay, momentum, trust = g["lars_args"].tolist()
    count = len([name for name in g if re.fullmatch(r"lars_p\d+_step0", name)])
    steps = len([name for name in g if name.startswith("lars_p0_step")])
    parameters = [nn.Parameter(g.tensor(f"lars_p{i}_step0").clone()) for i in range(count)]
    optimizer = lars(parameters, lr, momentum, trust)
    for step in range(1, steps):
        for i, parameter in enumerate(parameters):
            gradient = g.tensor(f"lars_g{i}_step{step}")
            parameter.grad = gradient + decay * parameter.detach() if parameter.ndim > 1 else gradient.clone()
        optimizer.step()
        for i, parameter in enumerate(parameters):
            torch.testing.assert_close(parameter.detach(), g.tensor(f"lars_p{i}_step{step}"), rtol=0, atol=1e-6)


def test_timms_lars_equals_the_formula():
    """A loop over numbers in float64; the 1e-8 that timm adds to the gradient's norm is below the tolerance."""
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(3, 2, generator=generator, dtype=torch.float64), torch.randn(3, generator=generator, dtype=torch.float64),
              torch.zeros(2, 2, dtype=torch.float64), torch.randn(2, 2, generator=generator, dtype=torch.float64)]  # fmt: skip
    parameters = [nn.Parameter(x.clone()) for x in starts]
    optimizer = lars(parameters, 0.3, 0.9, 0.001)
    weights, moments = [x.flatten().tolist() for x in starts], [[0.0] * x.numel() for x in starts]
    for _ in range(4):
        for i, parameter in enumerate(parameters):
            last = i == len(parameters) - 1  # whose gradient is zero
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * (not last)
            gradient = parameter.grad.flatten().tolist()
            w_norm, g_norm = (math.sqrt(sum(x * x for x in values)) for values in (weights[i], gradient))
            trust = 0.001 * w_norm / g_norm if parameter.ndim > 1 and w_norm > 0 and g_norm > 0 else 1.0
            moments[i] = [0.9 * m + trust * x for m, x in zip(moments[i], gradient, strict=True)]
            weights[i] = [w - 0.3 * m for w, m in zip(weights[i], moments[i], strict=True)]
        optimizer.step()
        for parameter, expected in zip(parameters, weights, strict=True):
            assert parameter.detach().flatten().tolist() == pytest.approx(expected, abs=1e-8)


# DINO's. The official run with all three is tests/losses/test_dino_step.py.


def with_gradients(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    return parameters


@proves("optim.clip_each", "property")
@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=4), log=st.floats(-3, 3), seed=st.integers(0, 99))
def test_clip_each_equals_the_formula_tensor_by_tensor(shapes, log, seed):
    parameters, without = with_gradients(*shapes, seed=seed), nn.Parameter(torch.zeros(2))
    before, max_norm = [p.grad.flatten().tolist() for p in parameters], 10**log
    norms = clip_each(iter([without, *parameters]), max_norm)
    assert without.grad is None
    assert norms.tolist() == pytest.approx([math.hypot(*values) for values in before])
    for p, values in zip(parameters, before, strict=True):
        norm, now = math.hypot(*values), p.grad.flatten().tolist()
        assert now == pytest.approx([x * min(1, max_norm / (norm + 1e-6)) for x in values], rel=1e-12)
        assert math.hypot(*now) <= max_norm
        assert now == values or norm + 1e-6 > max_norm


@proves("optim.clip_each", "property")
def test_a_gradient_is_clipped_by_its_own_norm_alone():
    one, other = with_gradients((3,), (2, 2), dtype=torch.float32)
    alone = nn.Parameter(torch.zeros(3))
    alone.grad = one.grad.clone()
    other.grad.fill_(math.nan)
    expected = torch.nn.utils.clip_grad_norm_([alone], 0.1)  # torch's, of one tensor
    norms = clip_each([one, other], 0.1)
    torch.testing.assert_close(one.grad, alone.grad)
    assert norms[0] == expected
    assert norms.isnan().tolist() == [False, True]
    assert clip_each(one, 0.01).shape == (1,)  # a tensor by itself
    assert one.grad.norm() <= 0.01
    assert clip_each([nn.Parameter(torch.zeros(2))], 1.0).shape == (0,)


@proves("optim.clip_each", "property")
def test_norms_that_sixteen_bits_cannot_hold():
    """|gradient| = 120000 is beyond float16. Tensors of several dtypes share a call."""
    narrow, wide = with_gradients((4,), (2,), dtype=torch.float16)[0], with_gradients((3,), dtype=torch.float32)[0]
    narrow.grad.fill_(60000)
    norms = clip_each([narrow, wide], 1.0)
    assert norms.dtype == torch.float32
    assert norms[0].item() == 120000
    assert narrow.grad.tolist() == [0.5] * 4
    assert (narrow.grad.dtype, wide.grad.dtype) == (torch.float16, torch.float32)


@proves("optim.clip_each", "property")
def test_clip_each_reads_no_value():
    """A meta tensor has none: whatever waited for the device would fail here."""
    p = nn.Parameter(torch.zeros(3, device="meta"))
    p.grad = torch.zeros_like(p)
    assert clip_each([p], 1.0).is_meta


@proves("optim.clip_each", "errors")
def test_clip_each_errors():
    for max_norm in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"clip_each: got max_norm={max_norm}; expected a finite max_norm above 0"):
            clip_each([], max_norm)
    far, near = nn.Parameter(torch.zeros(2, device="meta")), with_gradients((2,))[0]
    far.grad = torch.zeros_like(far)
    with pytest.raises(ValueError, match="clip_each: got gradients on cpu, meta; expected one device. To mend: call it once for"):
        clip_each([far, near], 1.0)


@proves("optim.dino_groups", "property")
@pytest.mark.parametrize("wrap", [lambda m: m, Around, partial(torch.compile, backend="eager"), lambda m: nn.Sequential(m)])
def test_dinos_groups_part_all_parameters_that_learn(wrap):
    model = wrap(tiny(prefix=("cls", "reg"), layer_scale=0.1))
    next(model.parameters()).requires_grad_(False)
    decayed, others = dino_groups(model, weight_decay=0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    got = [sorted(names.pop(id(p)) for p in group["params"]) for group in (decayed, others)]  # a second time, it is not there
    assert names == {}
    assert [sum(name.endswith(word) for name in got[0]) for word in ("reg_token", "qkv.weight")] == [1, DEPTH]
    assert all(name.endswith((".bias", "norm.weight", "norm1.weight", "norm2.weight", "gamma")) for name in got[1])
    assert not any(name.endswith(".bias") for name in got[0])


@proves("optim.dino_groups", "property")
def test_axes_and_names_of_dinos_groups():
    """A bias of two axes is known by its name, a vector by its axis; a gain [out, 1] and a single number decay."""
    model = nn.Module()
    model.part = nn.Module()
    for name, shape in {"bias": (2, 2), "gain": (3, 1), "vector": (3,), "number": ()}.items():
        model.part.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    model.register_parameter("bias", nn.Parameter(torch.zeros(2, 2)))  # not after a dot: as in the official code
    names = {id(p): name for name, p in model.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in dino_groups(model)] == [
        ["bias", "part.gain", "part.number"],
        ["part.bias", "part.vector"],
    ]
    torch.optim.AdamW(dino_groups(nn.Linear(2, 2, bias=False))).step()  # an optimiser takes the empty group


@proves("optim.dino_groups", "errors")
def test_dinos_groups_errors():
    with pytest.raises(ValueError, match="dino_groups: got Linear without a parameter that needs a gradient; .*pass the student"):
        dino_groups(nn.Linear(2, 2).requires_grad_(False))
    for decay in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"dino_groups: got weight_decay={decay}; expected a finite weight_decay from 0 on"):
            dino_groups(nn.Linear(2, 2), weight_decay=decay)


@proves("optim.drop_gradients", "property")
@pytest.mark.parametrize("wrap", [lambda m: m, partial(torch.compile, backend="eager"), nn.DataParallel])
def test_a_dropped_part_stays_where_it_is_and_one_with_gradients_of_zero_does_not(wrap):
    def after(drop):
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("head", nn.Sequential())
        model.head.add_module("last_layer", nn.Linear(3, 2))
        model.add_module("last", nn.Linear(2, 2))
        outer = wrap(model)
        optimizer = torch.optim.AdamW(outer.parameters(), lr=0.1, weight_decay=0.1)
        outer(torch.ones(1, 3)).sum().backward()
        optimizer.step()  # AdamW remembers: its moments alone would move the part
        before = [p.detach().clone() for p in model.parameters()]
        drop(outer, model.head.last_layer)
        optimizer.step()
        return [torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]

    assert after(lambda outer, part: drop_gradients(outer, "last_layer")) == [True, True, False, False]
    assert after(lambda outer, part: drop_gradients(outer, "head.last_layer")) == [True, True, False, False]
    assert after(lambda outer, part: part.zero_grad(set_to_none=False)) == [False] * 4


@proves("optim.drop_gradients", "errors")
@pytest.mark.parametrize("part", ["last_layers", "last", "head.", ""])
def test_a_part_that_no_name_has(part):
    model = nn.ModuleDict({"head": nn.ModuleDict({"last_layer": nn.Linear(2, 2)})})
    with pytest.raises(ValueError, match=f"drop_gradients: got part='{part}', which no parameter of ModuleDict has in its name"):
        drop_gradients(model, part)
