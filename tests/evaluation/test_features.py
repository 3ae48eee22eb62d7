import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from sslkit.evaluation import extract_features, multiscale_features, probe_features
from sslkit.testing import proves


@pytest.mark.golden
@proves("evaluation.probe_features", "golden")
def test_official_probe_features(golden):
    g = golden("eval_features")
    cases = [name.split("/")[1] for name in g if name.startswith("linear/") and name.endswith("/tokens")]
    assert cases
    for case in cases:
        tokens = g.tensor(f"linear/{case}/tokens")
        mine = probe_features(tokens, average_pool=case.endswith("avg1"))
        torch.testing.assert_close(mine, g.tensor(f"linear/{case}/features"), rtol=1e-6, atol=1e-7)


@pytest.mark.golden
@proves("evaluation.multiscale_features", "golden")
def test_official_multiscale_feature(golden):
    g = golden("eval_features")
    weight, bias = g.tensor("multiscale/conv_weight"), g.tensor("multiscale/conv_bias")

    def model(images):
        return conv2d(images, weight, bias, stride=weight.shape[-1]).relu().mean(dim=(2, 3))

    mine = multiscale_features(model, g.tensor("multiscale/image"))
    torch.testing.assert_close(mine, g.tensor("multiscale/feature"), rtol=1e-5, atol=1e-6)


@proves("evaluation.probe_features", "loop", "property")
@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.integers(1, 4),
    batch=st.integers(1, 3),
    tokens=st.integers(2, 5),
    dim=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_equals_the_loop(seed, layers, batch, tokens, dim):
    x = torch.randn(layers, batch, tokens, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain = [[x[n, b, 0, d].item() for n in range(layers) for d in range(dim)] for b in range(batch)]
    average = [[sum(x[-1, b, t, d].item() for t in range(1, tokens)) / (tokens - 1) for d in range(dim)] for b in range(batch)]
    assert probe_features(x).tolist() == plain
    assert probe_features(list(x)).tolist() == plain
    both = torch.tensor([p + a for p, a in zip(plain, average, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(probe_features(x, average_pool=True, interleave=False), both)
    mixed = probe_features(x[-1:], average_pool=True)
    torch.testing.assert_close(mixed[:, 0::2], x[-1, :, 0])
    torch.testing.assert_close(mixed[:, 1::2], torch.tensor(average, dtype=torch.float64))


@proves("evaluation.multiscale_features", "property", "loop")
def test_scales():
    images = torch.rand(2, 3, 20, 14, generator=torch.Generator().manual_seed(0))

    def model(x):
        return torch.stack([x.mean(dim=(1, 2, 3)), x.square().mean(dim=(1, 2, 3))], dim=1)

    one = model(images)
    torch.testing.assert_close(multiscale_features(model, images, scales=(1,)), one / one.norm(dim=1, keepdim=True))
    seen = []
    multiscale_features(lambda x: (seen.append(tuple(x.shape[2:])), model(x))[1], images)
    assert seen == [(20, 14), (14, 9), (10, 7)]  # floor(size * scale)
    flat = images.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 20, 14).contiguous()
    torch.testing.assert_close(multiscale_features(model, flat), multiscale_features(model, flat, scales=(1,)))
    mean = sum(model(nn.functional.interpolate(images, scale_factor=s, mode="bilinear")) for s in (0.7, 0.5)) / 2
    torch.testing.assert_close(multiscale_features(model, images, scales=(0.7, 0.5)), mean / mean.norm(dim=1, keepdim=True))
    assert torch.equal(multiscale_features(lambda x: torch.zeros(2, 4), images), torch.zeros(2, 4))


@proves("evaluation.extract_features", "loop", "property")
@given(count=st.integers(1, 9), batch=st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_batches_do_not_matter(count, batch):
    images = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    sizes = []

    def model(x):
        sizes.append(len(x))
        return x.half().flatten(1)

    mine = extract_features(model, images, batch=batch)
    assert mine.dtype == torch.float32
    assert torch.equal(mine, images.half().float().flatten(1))
    assert sizes == [batch] * (count // batch) + [count % batch] * (count % batch > 0)


@proves("evaluation.extract_features", "property")
@pytest.mark.parametrize("fails", [False, True])
def test_modes_of_every_module_come_back(fails):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    model.train()
    model[1].eval()  # frozen on purpose by its owner
    before = model[1].running_mean.clone()
    modes = []
    model[2].register_forward_hook(lambda module, args, out: modes.append((module.training, torch.is_grad_enabled())))
    images = torch.ones(5, 3, 2, 2)
    if fails:
        model[3].register_forward_hook(lambda module, args, out: out[:1])
        with pytest.raises(ValueError, match="expected a tensor of 2 rows"):
            extract_features(model, images, batch=2)
    else:
        mine = extract_features(model, images, batch=2)
        assert not mine.requires_grad
        assert torch.equal(mine, extract_features(model, images, batch=5))
    assert set(modes) == {(False, False)}
    assert [m.training for m in model] == [True, False, True, True]
    assert model.training
    assert torch.equal(model[1].running_mean, before)


@proves("evaluation.extract_features", "half")
@proves("evaluation.probe_features", "half")
@proves("evaluation.multiscale_features", "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_features_are_widened_before_any_sum(dtype, autocast):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 3, 9, 5, generator=generator).to(dtype)
    images = torch.rand(2, 3, 8, 8, generator=generator)

    def model(x):
        return x.mean(dim=(2, 3)).to(dtype)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mine = probe_features(tokens, average_pool=True), multiscale_features(model, images), extract_features(model, images)
    assert {x.dtype for x in mine} == {torch.float32}
    assert torch.equal(mine[0], probe_features(tokens.float(), average_pool=True))
    assert torch.equal(mine[1], multiscale_features(lambda x: model(x).float(), images))
    assert torch.equal(mine[2], model(images).float())


@proves("evaluation.extract_features", "errors")
def test_wrong_extraction():
    with pytest.raises(ValueError, match="at least one image"):
        extract_features(nn.Identity(), torch.ones(0, 3, 2, 2))
    with pytest.raises(ValueError, match="got batch=0"):
        extract_features(nn.Identity(), torch.ones(2, 3), batch=0)
    with pytest.raises(ValueError, match=r"got output of type tuple.*To mend: wrap the model"):
        extract_features(lambda x: (x,), torch.ones(2, 3))


@proves("evaluation.probe_features", "errors")
def test_wrong_layers():
    with pytest.raises(ValueError, match=r"expected the axes \[layers, batch, tokens, dim\]"):
        probe_features(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="got 2 layers with average_pool and interleave; expected one layer"):
        probe_features(torch.zeros(2, 3, 4, 5), average_pool=True)
    with pytest.raises(ValueError, match="without patch tokens"):
        probe_features(torch.zeros(1, 3, 1, 5), average_pool=True)


@proves("evaluation.multiscale_features", "errors")
def test_wrong_scales():
    images = torch.ones(1, 3, 8, 8)
    with pytest.raises(ValueError, match="got no scales"):
        multiscale_features(nn.Flatten(), images, scales=())
    with pytest.raises(ValueError, match="scale 1=-1"):
        multiscale_features(nn.Flatten(), images, scales=(1, -1))
    with pytest.raises(TypeError, match="expected a floating dtype"):
        multiscale_features(nn.Flatten(), images.to(torch.uint8))
    assert math.isclose(multiscale_features(nn.Flatten(), images, scales=(1,)).norm().item(), 1, rel_tol=1e-6)
