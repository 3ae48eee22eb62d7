"""The loss on hidden pixels against the official numbers, a loop, and the losses and targets that it stands for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.operations import seeded, unique_ids
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sslkit.kernels import Choice, explain, masked_pixel_loss, use_backend
from sslkit.losses import masked_mse
from sslkit.maskers import RandomMasker, TubeMasker
from sslkit.patches import patchify
from sslkit.targets import normalized_pixels
from sslkit.testing import proves

NAME = "kernels.masked_pixel_loss"
STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIPS = {"tubelet": 2, "frame_stride": 2, "order": "cpq", **STATISTICS}


def pictures(*shape, seed=0, dtype=torch.uint8):
    levels = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    return levels if dtype == torch.uint8 else (levels / 255).to(dtype)


def value_and_gradient(prediction, *arguments, call=masked_pixel_loss, **options):
    """The loss of every token, and the gradient of their sum with fixed weights."""
    leaf = prediction.detach().clone().requires_grad_()
    out = call(leaf, *arguments, **options)
    weights = torch.linspace(1, 2, out.numel()).view(out.shape).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, leaf, weights)[0]


@proves(NAME, "golden")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_official_loss_and_gradient(golden, dtype):
    g = golden("mae_patchify_loss")
    cases = [name.removesuffix("_imgs") for name in g if name.endswith("_imgs")]
    assert cases
    for case in cases:
        images, patch, mask = g.tensor(f"{case}_imgs"), g.number(f"{case}_p"), g.tensor(f"{case}_mask").bool()
        ids = torch.arange(mask.shape[1], dtype=dtype).expand(len(mask), -1)  # all: rows of these masks hide different numbers
        for norm in (0, 1):
            prediction = g.tensor(f"{case}_pred").requires_grad_()
            loss = masked_pixel_loss(prediction, images, ids, patch, normalize=bool(norm))[mask].mean()
            loss.backward()
            torch.testing.assert_close(loss.detach(), g.tensor(f"{case}_loss_norm{norm}"), rtol=1e-5, atol=0)
            torch.testing.assert_close(prediction.grad, g.tensor(f"{case}_gradpred_norm{norm}"), rtol=0, atol=1e-6)


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(batch=st.integers(1, 2), grid=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)), patch=st.integers(1, 3),
       channels=st.integers(1, 3), tubelet=st.integers(1, 2), stride=st.integers(1, 2), normalize=st.booleans(), statistics=st.booleans(),
       loss=st.sampled_from(["mse", "l1"]), order=st.sampled_from(["pqc", "cpq"]), levels=st.booleans(), data=st.data())  # fmt: skip
def test_equals_a_loop(batch, grid, patch, channels, tubelet, stride, normalize, statistics, loss, order, levels, data):
    """Pixel by pixel from the paper; images are clips of one frame."""
    times, down, across = grid
    clip = times > 1 or tubelet > 1 or stride > 1
    size = ((times * tubelet - 1) * stride + 1, down * patch, across * patch)
    images = pictures(batch, channels, *size, seed=data.draw(st.integers(0, 99)))
    images = images if levels else images.double() / 255
    ids = unique_ids(batch, math.prod(grid), data.draw(st.integers(0, math.prod(grid))))
    prediction = torch.randn(*ids.shape, channels * tubelet * patch**2, generator=seeded(1), dtype=torch.float64)
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.5)[:channels]
    options = {"mean": mean, "std": std} if statistics else {}
    out = masked_pixel_loss(prediction, images if clip else images[:, :, 0], ids, patch, tubelet=tubelet, frame_stride=stride,
                            normalize=normalize, loss=loss, order=order, **options)  # fmt: skip
    assert (out.shape, out.dtype) == (ids.shape, torch.float64)
    for b in range(batch):
        for k, n in enumerate(ids[b].tolist()):
            t, y, x = n // (down * across), n // across % down, n % across
            token = {}
            for c in range(channels):
                for place in [(u, p, q) for u in range(tubelet) for p in range(patch) for q in range(patch)]:
                    u, p, q = place
                    pixel = images[b, c, (t * tubelet + u) * stride, y * patch + p, x * patch + q].item() / (255 if levels else 1)
                    token[(*place, c) if order == "pqc" else (c, *place)] = (pixel - mean[c]) / std[c] if statistics else pixel
            v = [token[place] for place in sorted(token)]
            if normalize:
                level = sum(v) / len(v)
                variance = sum((x - level) ** 2 for x in v) / max(len(v) - 1, 1)
                v = [(x - level) / math.sqrt(variance + 1e-6) for x in v]
            errors = [abs(a - b) ** (2 if loss == "mse" else 1) for a, b in zip(prediction[b, k].tolist(), v, strict=True)]
            assert out[b, k].item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)


@proves(NAME, "property")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("order", ["pqc", "cpq"])
@pytest.mark.parametrize("statistics", [{}, STATISTICS], ids=["plain", "statistics"])
def test_is_the_masked_mse_of_normalized_pixels(dtype, order, statistics):
    """The mean over the tokens, and its gradient, are those of the two functions on whole images, to float rounding."""
    for shape, masker, options in [((3, 3, 32, 48), RandomMasker(0.75), {}), ((2, 3, 8, 16, 16), TubeMasker(0.5), {"tubelet": 2})]:
        images = pictures(*shape, dtype=dtype)
        mask = masker(shape[0], (*[s // u for s, u in zip(shape[2:-2], [2], strict=False)], shape[-2] // 8, shape[-1] // 8),
                      generator=seeded())  # fmt: skip
        target = normalized_pixels(images, 8, order=order, **options, **statistics)
        prediction = torch.randn(target.shape, generator=seeded(1)).requires_grad_()
        hidden = prediction.gather(1, mask.ids_hidden[..., None].expand(-1, -1, prediction.shape[2]))
        losses = [masked_mse(prediction, target, mask.mask),
                  masked_pixel_loss(hidden, images, mask.ids_hidden, 8, order=order, **options, **statistics).mean()]  # fmt: skip
        gradients = [torch.autograd.grad(loss, prediction)[0] for loss in losses]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
        assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


@proves(NAME, "gradcheck")
@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64], ids=str)
def test_the_gradient_is_exact(loss, normalize, dtype):
    images, ids = pictures(2, 3, 6, 9, dtype=dtype), unique_ids(2, 6, 4)
    prediction = torch.randn(2, 4, 27, generator=seeded(), dtype=torch.float64, requires_grad=True)
    options = {"loss": loss, "normalize": normalize, **STATISTICS}
    assert torch.autograd.gradcheck(lambda p: masked_pixel_loss(p, images, ids, 3, **options), prediction)


@proves(NAME, "property")
def test_a_perfect_prediction_has_no_error_and_no_gradient():
    images = pictures(2, 3, 8, 12)
    images[0, :, :4, :4] = 77  # a flat token: exactly 0, as levels are whole numbers
    target = normalized_pixels(images.double() / 255, 4)
    target[0, 0] = 0
    ids = torch.arange(6).expand(2, -1)
    for loss in ("mse", "l1"):
        out, gradient = value_and_gradient(target, images, ids, 4, loss=loss)
        assert out.max() < (1e-24 if loss == "mse" else 1e-12)
        assert (out[0, 0], gradient[0, 0].abs().max()) == (0, 0)
    out, gradient = value_and_gradient(torch.zeros(2, 6, 48), images, ids, 4)
    assert (out[0, 0], gradient[0, 0].abs().max()) == (0, 0)


@proves(NAME, "property")
@pytest.mark.parametrize("options", [{}, {"loss": "l1", "order": "cpq", "normalize": False}])
def test_a_token_sees_its_own_pixels_alone(options):
    """Ids in any order, twice, or of a part; nothing that is hidden elsewhere has a say, not even NaN."""
    images, prediction = pictures(2, 3, 8, 12, dtype=torch.float32), torch.randn(2, 6, 48, generator=seeded())
    whole, gradient = value_and_gradient(prediction, images, torch.arange(6).expand(2, -1), 4, **options)
    assert (whole > 0).all()
    ids = torch.tensor([[4, 1, 4], [0, 5, 2]])
    rows = torch.arange(2)[:, None], ids
    poisoned = images.clone()
    for b in range(2):
        for n in set(range(6)) - set(ids[b].tolist()):
            poisoned[b, :, n // 3 * 4 : n // 3 * 4 + 4, n % 3 * 4 : n % 3 * 4 + 4] = math.nan
    some, of_some = value_and_gradient(prediction[rows], poisoned, ids, 4, **options)
    assert torch.equal(some, whole[rows])
    # both of sums whose weights run from 1 to 2, over as many tokens as there are
    torch.testing.assert_close(of_some / torch.linspace(1, 2, 6).view(2, 3, 1), (gradient / torch.linspace(1, 2, 12).view(2, 6, 1))[rows])


@proves(NAME, "property")
def test_any_strides_give_the_same():
    images, prediction, ids = pictures(2, 3, 8, 16, dtype=torch.float32), torch.randn(2, 5, 48, generator=seeded()), unique_ids(2, 8, 5)
    expected = value_and_gradient(prediction, images, ids, 4)
    views = [images.contiguous(memory_format=torch.channels_last), torch.cat([images, images], dim=3)[..., :16],
             torch.cat([images[..., :3], images], dim=3)[..., 3:], images.mT.contiguous().mT, images.flip(1).flip(1)]  # fmt: skip
    for view in views:
        assert torch.equal(view, images)
        for got, wanted in zip(value_and_gradient(prediction, view, ids, 4), expected, strict=True):
            assert torch.equal(got, wanted)
    for view in (torch.cat([prediction[:, :1], prediction], dim=1)[:, 1:], prediction.mT.contiguous().mT):
        leaf = view.requires_grad_()
        out = masked_pixel_loss(leaf, images, torch.stack([ids, ids], dim=2)[..., 0], 4)
        assert torch.equal(out, expected[0])
        assert torch.equal(torch.autograd.grad(out, leaf, torch.linspace(1, 2, 10).view(2, 5))[0], expected[1])
    same = masked_pixel_loss(prediction[:1].expand(2, -1, -1), images[:1].expand(2, -1, -1, -1), ids[:1].expand(2, -1), 4)
    assert torch.equal(same[1], expected[0][0])


@proves(NAME, "property")
def test_nothing_hidden_is_empty():
    for batch, kept in [(0, 2), (2, 0)]:
        out, gradient = value_and_gradient(torch.ones(batch, kept, 48), pictures(batch, 3, 8, 8), torch.zeros(batch, kept).long(), 4)
        assert (out.shape, gradient.shape) == ((batch, kept), (batch, kept, 48))
    one, _ = value_and_gradient(torch.full((1, 1, 1), 3.0), pictures(1, 1, 1, 1), torch.zeros(1, 1).long(), 1)
    assert one.item() == 9  # a token of a single value is 0


def test_no_more_than_the_named_tokens_is_formed():
    """Neither the target of visible tokens, nor anything that is kept for the backward pass but the inputs."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            fresh = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known]
            self.numel = max([self.numel, *(x.numel() for x in fresh)])
            return out

    images, ids = pictures(2, 3, 64, 64, dtype=torch.float32), unique_ids(2, 256, 3)
    prediction = torch.randn(2, 3, 48, generator=seeded(), requires_grad=True)
    known, saved = {images.untyped_storage().data_ptr()}, []
    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        loss = masked_pixel_loss(prediction, images, ids, 4)
        assert saved == [prediction.shape, images.shape, ids.shape]
        loss.sum().backward()
    assert prediction.numel() <= largest.numel < images.numel() // 16


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    """In float32 whatever the inputs, in and out of autocast; the gradient is rounded once."""
    ids, prediction = unique_ids(4, 4, 3), torch.randn(4, 3, 768, generator=seeded()).to(dtype)
    for images in (pictures(4, 3, 32, 32), pictures(4, 3, 32, 32, dtype=dtype)):
        for options in ({}, {"loss": "l1", **STATISTICS}, {"normalize": False}):
            exact, slope = value_and_gradient(prediction.double(), images, ids, 16, **options)
            for autocast in (False, True):
                with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                    out, gradient = value_and_gradient(prediction, images, ids, 16, **options)
                assert (out.dtype, gradient.dtype) == (torch.float32, dtype)
                assert (out.double() - exact).norm() <= 1e-6 * exact.norm()
                assert (gradient.double() - slope).norm() <= 1.01 * (slope.to(dtype).double() - slope).norm() + 1e-9


def test_the_result_is_as_wide_as_the_prediction():
    """As of masked_mse; the target is computed in the images' dtype where that is wider."""
    images, ids = pictures(1, 1, 4, 4, dtype=torch.float64), torch.tensor([[3, 0]])
    prediction = torch.randn(1, 2, 4, generator=seeded(), dtype=torch.float64)
    exact = masked_pixel_loss(prediction, images, ids, 2)
    assert exact.dtype == torch.float64
    assert masked_pixel_loss(prediction, images.float(), ids, 2).dtype == torch.float64
    out, gradient = value_and_gradient(prediction.float(), images, ids, 2)
    assert (out.dtype, gradient.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(out, exact.float())


def test_images_get_no_gradient():
    images = pictures(1, 3, 4, 4, dtype=torch.float32).requires_grad_()
    masked_pixel_loss(torch.randn(1, 1, 48, generator=seeded(), requires_grad=True), images, torch.zeros(1, 1).long(), 4).sum().backward()
    assert images.grad is None
    assert not masked_pixel_loss(torch.ones(1, 1, 48), images, torch.zeros(1, 1).long(), 4).requires_grad


def arguments(prediction, images, ids, patch=4, tubelet=1, stride=1, scale=None, bias=None, eps=1e-6, loss="mse", order="pqc"):
    return prediction, images, ids, patch, tubelet, stride, scale, bias, eps, loss, order, "auto"


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own look at its copies
def test_registration_is_sound(grad):
    """All tests of opcheck: schema, autograd registration, fake tensors, and compilation with dynamic shapes."""
    ids = unique_ids(2, 6, 4)
    prediction = torch.randn(2, 4, 48, generator=seeded(), requires_grad=grad)
    numbers = {"scale": [1.0, 2.0, 3.0], "bias": [0.0, 0.5, 0.25], "eps": None, "loss": "l1", "order": "cpq"}
    for inputs, options in [((prediction, pictures(2, 3, 8, 12), ids), {}), ((prediction, pictures(2, 3, 8, 12).float(), ids), numbers)]:
        torch.library.opcheck(torch.ops.sslkit.masked_pixel_loss.default, arguments(*inputs, **options))
        backward = (torch.randn(2, 4, generator=seeded(1)), *arguments(prediction.detach(), *inputs[1:], **options))
        torch.library.opcheck(torch.ops.sslkit.masked_pixel_loss_backward.default, backward)


@proves(NAME, "compile")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_compiles_in_one_graph_forward_and_backward(backend):
    torch.compiler.reset()
    compiled = torch.compile(masked_pixel_loss, fullgraph=True, backend=backend)
    for images, options in [(pictures(2, 3, 8, 12), {}), (pictures(2, 3, 7, 8, 12, dtype=torch.float32), CLIPS)]:
        prediction, ids = torch.randn(2, 4, 48 * options.get("tubelet", 1), generator=seeded()), unique_ids(2, 6, 4)
        got, expected = (value_and_gradient(prediction, images, ids, 4, call=f, **options) for f in (compiled, masked_pixel_loss))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@proves(NAME, "compile")
def test_one_graph_serves_every_batch_size():
    torch.compiler.reset()
    graphs = []

    def count(graph, examples):
        graphs.append(graph)
        return graph

    compiled = torch.compile(masked_pixel_loss, fullgraph=True, backend=count, dynamic=True)
    for batch, kept in ((5, 4), (7, 6), (9, 2)):  # unlike the other sizes: equal ones share a symbol
        inputs = torch.randn(batch, kept, 12, generator=seeded()), pictures(batch, 3, 8, 12), unique_ids(batch, 24, kept), 2
        assert torch.equal(compiled(*inputs), masked_pixel_loss(*inputs))
    assert len(graphs) == 1


def test_exports():
    class Model(torch.nn.Module):
        def forward(self, prediction, clips, ids):
            return masked_pixel_loss(prediction, clips, ids, 4, **CLIPS)

    def inputs(batch):
        return torch.randn(batch, 4, 96, generator=seeded()), pictures(batch, 3, 7, 8, 12), unique_ids(batch, 12, 4)

    exported = torch.export.export(Model(), inputs(2), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},) * 3)
    assert "sslkit.masked_pixel_loss.default" in str(exported.graph)
    for batch in (2, 5):
        assert torch.equal(exported.module()(*inputs(batch)), Model()(*inputs(batch)))


def test_sizes_are_known_on_a_device_without_numbers():
    def run(device, grad):
        prediction = torch.empty(4, 2, 48, dtype=torch.bfloat16, device=device).mT.contiguous().mT.requires_grad_(grad)
        images, ids = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device=device), torch.zeros(4, 2, dtype=torch.int64, device=device)
        out = masked_pixel_loss(prediction, images, ids, 4)
        return [out, *(torch.autograd.grad(out.sum(), prediction) if grad else ())]

    with FakeTensorMode():
        (on_a_gpu,) = run("cuda", grad=False)  # autograd asks the driver for the device, so the gradient is taken below
    assert (on_a_gpu.device.type, on_a_gpu.shape, on_a_gpu.dtype) == ("cuda", (4, 2), torch.float32)
    for got, expected in zip(run("meta", grad=True), run("cpu", grad=True), strict=True):
        assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())


@proves(NAME, "errors")
def test_a_second_derivative_is_refused():
    prediction = torch.randn(1, 1, 48, generator=seeded(), requires_grad=True)
    loss = masked_pixel_loss(prediction, pictures(1, 3, 4, 4), torch.zeros(1, 1).long(), 4)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction, create_graph=True)
    with pytest.raises(
        RuntimeError, match="masked_pixel_loss: got a second derivative; expected one, of the prediction. To mend: use loss"
    ):
        gradient.sum().backward()


def test_the_version_that_runs_is_told():
    x = torch.ones(1, 1, 48)
    reason = "masked_pixel_loss has no fused version for cpu and torch.float32"
    assert explain("masked_pixel_loss", x) == Choice("reference", reason)
    images, ids = pictures(1, 3, 4, 4), torch.zeros(1, 1).long()
    assert torch.equal(masked_pixel_loss(x, images, ids, 4, backend="reference"), masked_pixel_loss(x, images, ids, 4))
    with pytest.raises(ValueError, match=f'masked_pixel_loss: got backend="fused", but {reason}; expected "auto" or "reference"'):
        masked_pixel_loss(x, images, ids, 4, backend="fused")
    with use_backend("fused"), pytest.raises(ValueError, match="To mend: leave backend out"):
        masked_pixel_loss(x, images, ids, 4)


@proves(NAME, "errors")
def test_wrong_input():
    x, images, ids = torch.zeros(2, 3, 48), pictures(2, 3, 8, 8), torch.zeros(2, 3, dtype=torch.int64)
    for inputs, options, message in [
        ((x[0], images, ids), {}, r"got prediction \[3, 48\], 2 axes; expected the axes \[batch, kept, values\]"),
        ((x, images[0], ids), {}, r"got images \[3, 8, 8\], 3 axes; expected the axes \[batch, channels, height, width\]"),
        ((x, images[:1], ids), {}, r"got images \[1, 3, 8, 8\] with batch=1; expected batch=2 as in prediction"),
        ((x, images, ids[:, :2]), {}, r"got ids \[2, 2\] with kept=2; expected kept=3 as in prediction"),
        ((x, images, ids.to("meta")), {}, "got ids on meta; expected cpu, where prediction is"),
        (
            (x[..., :47], images, ids),
            {},
            r"got prediction \[2, 3, 47\] for images \[2, 3, 8, 8\], patch=4, tubelet=1; expected 48 values a t",
        ),
        ((x, images[:, :0], ids), {}, "expected 0 values a token, and at least one channel. To mend: predict the values of whole tokens"),
        ((x, images, ids), {"loss": "huber"}, "got loss='huber'; expected 'mse' or 'l1'. To mend: leave it at 'mse'"),
        ((x, images, ids), {"order": "qpc"}, "got order='qpc'; expected 'pqc' or 'cpq'. To mend: leave it at 'pqc'"),
        ((x, images, ids), {"mean": (0, 0)}, "got mean of 2 numbers; expected 3, one a channel. To mend: pass mean for the channels"),
        ((x, images, ids), {"std": (1, 0, 1)}, "got std=0; expected a finite std above 0"),
    ]:
        with pytest.raises(ValueError, match=f"masked_pixel_loss: .*{message}"):
            masked_pixel_loss(*inputs, 4, **options)
    with pytest.raises(ValueError, match="height=8; expected a positive multiple of 3"):
        masked_pixel_loss(x, images, ids, 3)
    for inputs, options, message in [
        ((x.long(), images, ids), {}, "got prediction of dtype torch.int64; expected a floating dtype"),
        ((x, images.long(), ids), {}, "got images of dtype torch.int64; expected uint8 or a floating dtype. To mend: pass the levels"),
        ((x, images, ids.float()), {}, "got ids of dtype torch.float32; expected int64 or int32"),
        ((x, images.numpy(), ids), {}, "got images of type ndarray; expected a tensor"),
        ((x, images, ids), {"std": torch.ones(3)}, "got std of type Tensor; expected a tuple of numbers, one a channel"),
    ]:
        with pytest.raises(TypeError, match=f"masked_pixel_loss: {message}"):
            masked_pixel_loss(*inputs, 4, **options)
    for wrong in (4, -1, 2**40, -(2**40)):
        ids[1, 2] = wrong
        with pytest.raises(IndexError):
            masked_pixel_loss(x, images, ids, 4)


def test_patches_of_images_are_those_of_patchify():
    """Raw values, without any statistics: the error against a prediction of zero is the mean square of patchify's tokens."""
    images = pictures(2, 3, 8, 12, dtype=torch.float32)
    expected = patchify(images, 4).square().mean(dim=-1)
    got = masked_pixel_loss(torch.zeros(2, 6, 48), images, torch.arange(6).expand(2, -1), 4, normalize=False)
    torch.testing.assert_close(got, expected)
