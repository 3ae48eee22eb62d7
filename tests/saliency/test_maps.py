"""CAM, gradients, attention: loops, known answers, no gradient left behind."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sslkit.backbones import ViT, convnet_small
from sslkit.saliency import attention_saliency, class_activation_map, gradient_saliency
from sslkit.testing import proves

CAM, GRADIENT, ATTENTION = (f"saliency.{name}" for name in ("class_activation_map", "gradient_saliency", "attention_saliency"))


@proves(CAM, "loop", "property")
@pytest.mark.parametrize("relu", [False, True])
def test_cam_equals_the_loop_and_adds_up_to_the_score(relu, generator):
    maps, weight = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64), torch.randn(6, 4, generator=generator).double()
    classes = torch.tensor([5, 1])
    evidence = torch.stack([sum(weight[c, k] * m[k] for k in range(4)) for c, m in zip(classes, maps, strict=True)])
    torch.testing.assert_close(evidence.mean(dim=(1, 2)), (maps.mean(dim=(2, 3)) @ weight.T)[[0, 1], classes])
    evidence = evidence.clamp(min=0) if relu else evidence
    got = class_activation_map(maps, weight, classes, relu=relu)
    for b in range(2):
        torch.testing.assert_close(got[b, 0], (evidence[b] - evidence[b].min()) / (evidence[b].max() - evidence[b].min()))
    large = class_activation_map(maps, weight, classes, size=(12, 20), relu=relu)
    assert large.shape == (2, 1, 12, 20)
    assert large.amin() == 0
    assert large.amax() == 1
    assert torch.equal(class_activation_map(maps * 0, weight, classes), torch.zeros(2, 1, 3, 5, dtype=torch.float64))


@proves(GRADIENT, "loop", "property")
def test_the_gradient_of_a_linear_score_is_its_weight(generator):
    weight = torch.randn(4, 3 * 5 * 6, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(90, 4)).eval()
    model[1].weight.data.copy_(weight)
    images = torch.rand(2, 3, 5, 6, generator=generator)
    got = gradient_saliency(model, images, torch.tensor([2, 0]))
    for b, c in enumerate((2, 0)):
        expected = weight[c].view(3, 5, 6).abs().amax(dim=0)
        torch.testing.assert_close(got[b, 0], (expected - expected.min()) / (expected.max() - expected.min()))
    assert model[1].weight.grad is None
    assert images.grad is None
    largest = model(images).argmax(dim=1)
    assert torch.equal(gradient_saliency(model, images), gradient_saliency(model, images, largest))
    with torch.no_grad():
        assert torch.equal(gradient_saliency(model, images), gradient_saliency(model, images, largest))


@proves(ATTENTION, "loop", "property")
def test_attention_of_a_vit_on_its_grid(generator):
    vit = ViT((8, 12), 4, 16, 1, 2).eval()
    tokens = vit(torch.rand(2, 3, 8, 12, generator=generator), attention_of=-1)
    attention = tokens.attention[:, :, 0, len(tokens.names) :]
    got = attention_saliency(attention, tokens.grid)
    for b in range(2):
        expected = ((attention[b, 0] + attention[b, 1]) / 2).view(2, 3)
        torch.testing.assert_close(got[b, 0], (expected - expected.min()) / (expected.max() - expected.min()))
    one = attention_saliency(attention, tokens.grid, head=1, size=(8, 12))
    assert one.shape == (2, 1, 8, 12)
    large = functional.interpolate(attention[:, 1].view(2, 1, 2, 3), size=(8, 12), mode="bilinear")
    assert torch.equal(one.flatten(1).argmax(dim=1), large.flatten(1).argmax(dim=1))


@proves(CAM, "half")
@proves(GRADIENT, "half")
@proves(ATTENTION, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_is_stretched_in_float32(dtype, generator):
    maps, weight = torch.randn(2, 4, 3, 5, generator=generator).to(dtype), torch.randn(6, 4, generator=generator).to(dtype)
    classes = torch.tensor([5, 1])
    assert torch.equal(class_activation_map(maps, weight, classes), class_activation_map(maps.float(), weight.float(), classes))
    attention = torch.rand(2, 3, 6, generator=generator).to(dtype)
    assert torch.equal(attention_saliency(attention, (2, 3)), attention_saliency(attention.float(), (2, 3)))
    model = nn.Sequential(convnet_small(width=4), nn.Linear(16, 3)).eval()
    for images, autocast in (
        (torch.rand(2, 3, 16, 16, generator=generator), True),
        (torch.rand(2, 3, 16, 16, generator=generator).to(dtype), False),
    ):
        with torch.autocast("cpu", dtype, enabled=autocast):
            model = model.to(images.dtype)
            got = gradient_saliency(model, images, classes % 3)
            x = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).gather(1, classes[:, None] % 3).sum(), x)
        largest = gradient.float().abs().amax(dim=1, keepdim=True)
        low, high = largest.amin(dim=(1, 2, 3), keepdim=True), largest.amax(dim=(1, 2, 3), keepdim=True)
        assert got.dtype == torch.float32
        assert torch.equal(got, (largest - low) / (high - low))


@proves(CAM, "errors")
@proves(GRADIENT, "errors")
@proves(ATTENTION, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"class_activation_map: got weight \[6, 5\] with dim=5; expected dim=4 as in maps"):
        class_activation_map(torch.zeros(2, 4, 3, 3), torch.zeros(6, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="class_activation_map: got classes of dtype torch.float32; expected integers"):
        class_activation_map(torch.zeros(2, 4, 3, 3), torch.zeros(6, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="gradient_saliency: got a model in training mode; expected evaluation mode"):
        gradient_saliency(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"gradient_saliency: got scores \[1, 3, 2, 2\]; expected \[1, classes\]"):
        gradient_saliency(nn.Identity().eval(), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"attention_saliency: got grid=\(2, 2\) for 6 tokens; expected a grid \(h, w\) of 6"):
        attention_saliency(torch.zeros(1, 2, 6), (2, 2))
