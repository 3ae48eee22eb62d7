"""BASNet: the released names and sizes, official numbers, the network written out from its weights, maps of pictures of any size."""

import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from sslkit.losses import basnet_loss
from sslkit.saliency import BASNet
from sslkit.testing import proves, resumes

NAME = "saliency.BASNet"


def small(seed=0, width=2):
    torch.manual_seed(seed)
    return BASNet(width, depths=(1, 1, 1, 1))


def filled(name, shape):
    """Weights as the golden numbers were made with: a hash of the name and the place (NOTICE, basnet.npz)."""
    s = np.arange(np.prod(shape, dtype=np.int64)).astype(np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    s += np.uint64(0x9E3779B97F4A7C15)
    s = (s ^ (s >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    s = (s ^ (s >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = ((s ^ (s >> np.uint64(31))) >> np.uint64(11)) / 2.0**53 * 2 - 1
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) == 4:
        value = u * np.sqrt(4 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = 1 + 0.5 * u
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * u
    else:
        value = 0.5 + 0.2 * u
    return torch.from_numpy(value.astype(np.float32)).view(tuple(shape))


@proves(NAME, "golden")
def test_official_names_shapes_and_numbers(golden):
    g = golden("basnet")
    with torch.device("meta"):
        model = BASNet()
    weights = model.state_dict()
    assert list(weights) == g["keys"].tolist()
    assert [",".join(map(str, w.shape)) for w in weights.values()] == g["shapes"].tolist()
    assert sum(p.numel() for p in model.parameters()) == 87_060_360
    model.load_state_dict({name: filled(name, tuple(w.shape)) for name, w in weights.items()}, assign=True)
    with torch.no_grad():
        logits = model.eval()(g.tensor("x"))[0]
    torch.testing.assert_close(logits, g.tensor("logits"), rtol=0, atol=2e-4)
    torch.testing.assert_close(logits[0].sigmoid(), g.tensor("out0"), rtol=0, atol=2e-4)
    p = logits[0].sigmoid()
    torch.testing.assert_close((p - p.min()) / (p.max() - p.min()), g.tensor("normalised"), rtol=0, atol=2e-4)


@proves(NAME, "loop")
def test_equals_the_network_written_out(generator):
    """From the weights alone, layer after layer as the paper's figure 2 has them."""
    model = small().double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    w, x = model.state_dict(), torch.randn(2, 3, 64, 32, generator=generator, dtype=torch.float64)

    def conv(x, name, **options):
        return functional.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **options)

    def bn(x, name):
        mean, var, scale, shift = (w[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(x, name, stride=1):
        y = bn(conv(x, f"{name}.conv1", stride=stride, padding=1), f"{name}.bn1").clamp(min=0)
        y = bn(conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
        same = bn(conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1") if f"{name}.downsample.0.weight" in w else x
        return (y + same).clamp(min=0)

    def up(x, factor):
        return functional.interpolate(x, scale_factor=factor, mode="bilinear")

    def three(x, tag, dilations=(1, 1, 1)):
        for step, d in zip("1m2", dilations, strict=True):
            x = bn(conv(x, f"conv{tag}_{step}", padding=d, dilation=d), f"bn{tag}_{step}").clamp(min=0)
        return x

    h = bn(conv(x, "inconv", padding=1), "inbn").clamp(min=0)
    h1 = block(h, "encoder1.0")
    h2, h3, h4 = None, None, None
    h2 = block(h1, "encoder2.0", 2)
    h3 = block(h2, "encoder3.0", 2)
    h4 = block(h3, "encoder4.0", 2)
    h5, h6 = functional.max_pool2d(h4, 2), None
    for i in (1, 2, 3):
        h5 = block(h5, f"resb5_{i}")
    h6 = functional.max_pool2d(h5, 2)
    for i in (1, 2, 3):
        h6 = block(h6, f"resb6_{i}")
    hb = three(h6, "bg", (2, 2, 2))
    d6 = three(torch.cat([hb, h6], 1), "6d", (1, 2, 2))
    d5 = three(torch.cat([up(d6, 2), h5], 1), "5d")
    d4 = three(torch.cat([up(d5, 2), h4], 1), "4d")
    d3 = three(torch.cat([up(d4, 2), h3], 1), "3d")
    d2 = three(torch.cat([up(d3, 2), h2], 1), "2d")
    d1 = three(torch.cat([up(d2, 2), h1], 1), "1d")
    sides = [conv(d1, "outconv1", padding=1)]
    sides += [up(conv(d, f"outconv{s}", padding=1), f) for d, s, f in ((d2, 2, 2), (d3, 3, 4), (d4, 4, 8), (d5, 5, 16), (d6, 6, 32))]
    sides.append(up(conv(hb, "outconvb", padding=1), 32))
    r, kept = conv(sides[0], "refunet.conv0", padding=1), []
    for i in range(1, 6):
        r = functional.max_pool2d(r, 2) if i > 1 else r
        r = bn(conv(r, f"refunet.conv{i}", padding=1), f"refunet.bn{i}").clamp(min=0)
        kept.append(r)
    for i in (4, 3, 2, 1):
        r = bn(conv(torch.cat([up(r, 2), kept[i - 1]], 1), f"refunet.conv_d{i}", padding=1), f"refunet.bn_d{i}").clamp(min=0)
    expected = torch.cat([sides[0] + conv(r, "refunet.conv_d0", padding=1), *sides], dim=1)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@proves(NAME, "gradcheck")
def test_gradient_is_exact(generator):
    """Along random directions of all pixels and parameters at once: there are too many to be moved one by one."""
    model = small().double().eval()
    x = torch.rand(1, 3, 32, 32, generator=generator, dtype=torch.float64)
    start = {"x": x, **{name: p.detach() for name, p in model.named_parameters()}}
    fixed = torch.randn(1, 8, 32, 32, generator=generator, dtype=torch.float64)

    def value(point):
        weights = {name: p for name, p in point.items() if name != "x"}
        return (torch.func.functional_call(model, weights, (point["x"],)) * fixed).sum()

    gradient = torch.func.grad(value)(start)
    for _ in range(5):
        way = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in start.items()}
        ahead, back = (value({name: p + h * way[name] for name, p in start.items()}) for h in (1e-7, -1e-7))
        along = sum((gradient[name] * way[name]).sum() for name in start)
        torch.testing.assert_close((ahead - back) / 2e-7, along, rtol=1e-4, atol=1e-4)


@proves(NAME, "property")
def test_maps_do_not_depend_on_the_batch_the_dtype_or_the_brightness(generator):
    model, images = small().eval(), torch.rand(3, 3, 40, 72, generator=generator)
    maps = model.saliency(images, size=(64, 96))
    assert maps.shape == (3, 1, 40, 72)
    assert ((maps >= 0) & (maps <= 1)).all()
    torch.testing.assert_close(model.saliency(images[1:2], size=(64, 96)), maps[1:2])
    torch.testing.assert_close(model.saliency(images / 2, size=(64, 96)), maps)  # divided by its own maximum
    levels = (255 * images).to(torch.uint8)
    assert torch.equal(model.saliency(levels, size=(64, 96)), model.saliency(levels.float() / 255, size=(64, 96)))
    same = model.saliency(images, size=(32, 32))
    assert same.shape == maps.shape
    exact = model.saliency(torch.rand(1, 3, 32, 32, generator=generator), size=(32, 32))
    assert (exact.amin(), exact.amax()) == (0, 1)
    assert model.saliency(torch.zeros(1, 3, 32, 32), size=(32, 32)).isfinite().all()  # no maximum to divide by


@proves(NAME, "property")
def test_a_grey_image_takes_the_red_channels_numbers(generator):
    model, grey = small().eval(), torch.rand(1, 1, 32, 32, generator=generator)
    x = (grey / grey.max() - 0.485) / 0.229
    torch.testing.assert_close(model.normalized(grey), x.expand(-1, 3, -1, -1))
    p = model(x.expand(-1, 3, -1, -1))[:, :1].sigmoid()
    torch.testing.assert_close(model.saliency(grey, size=(32, 32)), (p - p.min()) / (p.max() - p.min()))


@proves(NAME, "property")
def test_it_learns_where_the_object_is(generator):
    """Squares of one colour on noise, thirty steps: nearer to the mask than a map of one value could be."""
    model = small(width=4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rows = torch.arange(32)

    def batch():
        corner = torch.randint(0, 16, (8, 2), generator=generator)
        inside = [(rows >= corner[:, i : i + 1]) & (rows < corner[:, i : i + 1] + 16) for i in (0, 1)]
        masks = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return torch.where(masks, torch.tensor([0.9, 0.1, 0.1])[:, None, None], torch.rand(8, 3, 32, 32, generator=generator)), masks

    for _ in range(30):
        images, masks = batch()
        loss = basnet_loss(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    images, masks = batch()
    with torch.no_grad():
        found = model(images)[:, :1].sigmoid()
    assert (found - masks.float()).abs().mean() < 0.15  # a quarter of the pixels is object: 0.375 is the best constant in squares


@proves(NAME, "resume")
def test_resumes(generator):
    model, x = small(), torch.rand(2, 3, 32, 32, generator=generator)

    def step(model):
        model.train()
        loss = basnet_loss(model(x), torch.ones(2, 1, 32, 32))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= 1e-3 * g

    resumes(model, step, before=2, after=2)


@proves(NAME, "errors")
def test_errors():
    model = small()
    with pytest.raises(ValueError, match=r"BASNet: got images \[1, 3, 40, 32\]; expected \[batch, 3, height, width\], multiples of 32"):
        model(torch.zeros(1, 3, 40, 32))
    with pytest.raises(ValueError, match="BASNet.saliency: got a network in training mode; expected evaluation mode"):
        model.saliency(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"BASNet.saliency: got images \[1, 2, 32, 32\]; expected \[batch, 3 or 1, height, width\]"):
        model.eval().saliency(torch.zeros(1, 2, 32, 32))
    with pytest.raises(ValueError, match=r"BASNet.normalized: got images \[3, 32, 32\]; expected \[batch, 3 or 1, height, width\]"):
        model.normalized(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="BASNet: got width=0; expected a whole width from 1 on"):
        BASNet(0)
