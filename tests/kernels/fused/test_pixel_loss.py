"""The kernel of the loss on hidden pixels equals float64 arithmetic on the same numbers: values and gradients."""

import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.kernels.fused.conftest import INTERPRETED
from tests.kernels.operations import seeded, unique_ids

from sslkit.kernels import _launch, explain, masked_pixel_loss

pytest.importorskip("triton", reason="Triton is not made for this system")
from sslkit.kernels._masked_pixel_loss import fused

NAME = "masked_pixel_loss"
STATISTICS = {"mean": (0.485, 0.456, 0.406, 0.5), "std": (0.229, 0.224, 0.225, 0.3)}
# Of a gradient's norm. The interpreter cuts bf16 off where GPUs round it, which is within the same bound.
ROUNDING = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
FLOATS = list(ROUNDING)


def pictures(*shape, seed=0, dtype=torch.uint8):
    levels = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    return levels if dtype == torch.uint8 else (levels / 255).to(dtype)


def value_and_gradient(prediction, *arguments, weights=None, **options):
    leaf = prediction.detach().requires_grad_()
    out = masked_pixel_loss(leaf, *arguments, **options)
    weights = torch.linspace(1, 2, out.numel(), device=out.device).view(out.shape) if weights is None else weights
    return out.detach(), torch.autograd.grad(out, leaf, weights.to(out.dtype))[0]


def close(prediction, *arguments, **options):
    """The kernel against the reference in float64, of the numbers that both are given."""
    out, gradient = value_and_gradient(prediction, *arguments, backend="fused", **options)
    exact, slope = value_and_gradient(prediction.double(), *arguments, backend="reference", **options)
    assert (out.shape, out.dtype, out.stride()) == (exact.shape, torch.float32, exact.stride())
    assert (gradient.shape, gradient.dtype, gradient.stride()) == (slope.shape, prediction.dtype, slope.stride())
    assert (out.double() - exact).norm() <= 1e-6 * exact.norm()
    assert (gradient.double() - slope).norm() <= ROUNDING[prediction.dtype] * slope.norm()
    return out, gradient


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patch=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 16]), grid=st.tuples(*[st.integers(1, 3)] * 3), batch=st.integers(0, 2),
       share=st.floats(0, 1), channels=st.integers(1, 4), tubelet=st.integers(1, 3), stride=st.integers(1, 2), clip=st.booleans(),
       levels=st.booleans(), dtype=st.sampled_from(FLOATS), normalize=st.booleans(), statistics=st.booleans(),
       loss=st.sampled_from(["mse", "l1"]), order=st.sampled_from(["pqc", "cpq"]), id_type=st.sampled_from([torch.int64, torch.int32]),
       seed=st.integers(0, 99))  # fmt: skip
@example(patch=16, grid=(1, 2, 3), batch=2, share=0.8, channels=3, tubelet=1, stride=1, clip=False, levels=True, dtype=torch.float32,
         normalize=True, statistics=False, loss="mse", order="pqc", id_type=torch.int64, seed=0)  # fmt: skip
@example(patch=32, grid=(1, 1, 2), batch=1, share=1.0, channels=3, tubelet=2, stride=1, clip=True, levels=True, dtype=torch.bfloat16,
         normalize=True, statistics=True, loss="mse", order="cpq", id_type=torch.int32, seed=0)  # fmt: skip
def test_equals_the_reference(device, patch, grid, batch, share, channels, tubelet, stride, clip, levels, dtype, normalize, statistics,
                              loss, order, id_type, seed):  # fmt: skip
    times, down, across = grid
    if not clip:
        times = tubelet = stride = 1
    size = ((times * tubelet - 1) * stride + 1, down * patch, across * patch)
    images = pictures(batch, channels, *size, seed=seed, dtype=torch.uint8 if levels else torch.float32).to(device)
    tokens = times * down * across
    ids = unique_ids(batch, tokens, round(share * tokens), seed, id_type).to(device)
    prediction = torch.randn(*ids.shape, channels * tubelet * patch**2, generator=seeded(seed)).to(device, dtype)
    options = {name: numbers[:channels] for name, numbers in STATISTICS.items()} if statistics else {}
    close(prediction, images if clip else images[:, :, 0], ids, patch, tubelet=tubelet, frame_stride=stride, normalize=normalize,
          loss=loss, order=order, **options)  # fmt: skip


@pytest.mark.parametrize("wave", [32, 64])
@pytest.mark.parametrize("order", ["pqc", "cpq"])
def test_every_pair_of_dtypes(device, monkeypatch, order, wave):
    """On processors of either kind: with the words of a lane half as wide, too."""
    monkeypatch.setattr(_launch, "wave", lambda: wave)
    ids = unique_ids(2, 6, 3).to(device)
    for of_images in (torch.uint8, *FLOATS):
        images = pictures(2, 3, 32, 48, dtype=of_images).to(device)
        for dtype in FLOATS:
            close(torch.randn(2, 3, 768, generator=seeded()).to(device, dtype), images, ids, 16, order=order)


@pytest.mark.parametrize("patch", [6, 8])
def test_strides(device, patch):
    """Predictions and gradients are read where they are, and images whose rows begin on words; other images are copied first."""
    size, values = (2 * patch, 3 * patch), 3 * patch**2
    images, ids = pictures(2, 3, *size).to(device), unique_ids(2, 6, 4).to(device)
    prediction = torch.randn(2, 5, values + 1, generator=seeded()).to(device)
    expected = close(prediction[:, 1:, :values].contiguous(), images, ids, patch)
    wide = torch.cat([images[..., :3], images, images[..., :29]], dim=3)
    views = [images.contiguous(memory_format=torch.channels_last), wide[..., 3 : 3 + size[1]], images.mT.contiguous().mT,
             torch.stack([images, images], dim=4)[..., 0], torch.cat([images, images], dim=2)[:, :, : size[0]]]  # fmt: skip
    for view in views:
        assert torch.equal(view, images)
        assert all(map(torch.equal, close(prediction[:, 1:, :values], view, ids, patch), expected))
    doubled = torch.stack([ids, ids], dim=2)[..., 1]
    assert all(map(torch.equal, close(prediction[:, 1:, :values].mT.contiguous().mT, images, doubled, patch), expected))
    same = close(prediction[:1, 1:, :values].expand(2, -1, -1), images[:1].expand(2, -1, -1, -1), ids[:1].expand(2, -1), patch)
    assert torch.equal(same[0], expected[0][:1].expand(2, -1))
    for weights in (torch.tensor(0.5, device=device).expand(2, 4), torch.linspace(1, 2, 8, device=device).view(4, 2).mT):
        close(prediction[:, 1:, :values].contiguous(), images, ids, patch, weights=weights)


def test_words_are_of_the_same_memory_where_they_can_be():
    """The interpreter does not mind a word that begins between two, a GPU does."""
    images = pictures(2, 3, 1, 32, 64)
    for view in (images, images[..., 8:40], images[1:, 1:, :, ::2, 16:32]):
        words = fused._words(view, 8)
        assert (words.data_ptr(), words.dtype, words.shape[-1]) == (view.data_ptr(), torch.int64, view.shape[-1] // 8)
        assert [step * 8 for step in words.stride()[:-1]] == list(view.stride()[:-1])
    for view in (images[..., 3:35], images[..., ::2], images.mT, torch.rand(2, 3, 1, 32, 60, generator=seeded())[..., 1:57]):
        words = fused._words(view, 8)
        assert words.is_contiguous()
        assert words.data_ptr() % 8 == 0
        assert torch.equal(words.view(view.dtype), view.contiguous())
    narrow = fused._words(images[..., 2:30], 2)
    assert (narrow.data_ptr(), narrow.dtype) == (images.data_ptr() + 2, torch.int16)


@pytest.mark.parametrize("patch", [6, 8])
def test_a_foreign_id_reads_nothing(device, patch):
    """Where the reference would raise, the kernel gives NaN: no memory of others is read, and the mistake is loud."""
    images = pictures(2, 3, 2 * patch, 4 * patch).to(device)
    prediction = torch.randn(2, 4, 3 * patch**2, generator=seeded()).to(device)
    ids = torch.tensor([[0, 8, -1, 2**40], [2**24, 3, -(2**40), -(2**24)]], device=device)
    for options in ({}, {"normalize": False, "loss": "l1", **{k: v[:3] for k, v in STATISTICS.items()}}):
        out, gradient = value_and_gradient(prediction, images, ids, patch, backend="fused", **options)
        assert out.isnan().tolist() == [[False, True, True, True], [True, False, True, True]]
        assert torch.equal(gradient.isnan().all(dim=2), out.isnan())
        assert torch.equal(gradient.isnan().any(dim=2), out.isnan())


def test_hidden_numbers_never_leak(device):
    """NaN in pixels that are not asked for, and around the tokens of a picture whose lanes are not all in use."""
    images = torch.full((2, 3, 28, 42), math.nan)
    images[:, :, 14:, 14:28] = pictures(2, 3, 14, 14, dtype=torch.float32)
    ids, prediction = torch.tensor([[4], [4]]), torch.randn(2, 1, 588, generator=seeded())
    out, gradient = close(prediction.to(device), images.to(device), ids.to(device), 14, order="cpq")
    assert out.isfinite().all()
    assert gradient.isfinite().all()


def test_flat_tokens_and_perfect_predictions(device):
    """A flat token of levels is exactly 0, and the gradient of |0| is 0."""
    images, ids = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8, device=device), torch.zeros(1, 1, dtype=torch.int64, device=device)
    for loss in ("mse", "l1"):
        out, gradient = value_and_gradient(torch.zeros(1, 1, 768, device=device), images, ids, 16, loss=loss, backend="fused")
        assert (out.item(), gradient.abs().max().item()) == (0, 0)


def test_offsets_beyond_two_to_the_31(device):
    """The last sample begins that many bytes, or numbers of the prediction, from the first, in memory that is hardly ever touched."""
    memory = torch.empty(2 * 192 * 5592406 + 192, dtype=torch.float16, device=device)
    images = pictures(3, 3, 8, 8).to(device)
    far = memory.view(torch.uint8).as_strided((3, 3, 8, 8), (2**30 + 64, 64, 8, 1))
    far.copy_(images)
    for patch in (1, 8):  # words of one byte, and of eight
        ids = unique_ids(3, 64 // patch**2, 1).to(device)
        prediction = torch.randn(3, 1, 3 * patch**2, generator=seeded()).to(device, torch.float16)
        expected = close(prediction, images, ids, patch)
        assert all(map(torch.equal, value_and_gradient(prediction, far, ids, patch, backend="fused"), expected))
    far = memory.as_strided((3, 1, 192), (192 * 5592406, 192, 1))
    far.copy_(prediction)
    assert all(map(torch.equal, value_and_gradient(far, images, ids, 8, backend="fused"), expected))


def test_what_cannot_run_says_so(device):
    x, ids = torch.ones(1, 1, 192, device=device), torch.zeros(1, 1, dtype=torch.int64, device=device)
    images = torch.ones(1, 3, 8, 8, device=device)
    for prediction, pixels, reason in [
        (x.double(), images, f"{device} and torch.float64"),
        (x, images.double(), "images of torch.float64"),
        (x.repeat(1, 1, 3), images.repeat(1, 3, 1, 1), "tokens of 9 channels and 64 pixels"),
    ]:
        with pytest.raises(ValueError, match=f'{NAME}: got backend="fused", but {NAME} has no fused version for {reason}; expected "auto"'):
            masked_pixel_loss(prediction, pixels, ids, 8, backend="fused")
        assert masked_pixel_loss(prediction, pixels, ids, 8).isfinite().all()  # "auto" takes the reference
    line = 2**31 // 7 + 1  # of rows so far apart that the last pixel of a sample is beyond 2^31
    far = torch.empty(7 * line + 8, dtype=torch.uint8, device=device).as_strided((1, 3, 8, 8), (0, 0, line, 1)).zero_()
    with pytest.raises(ValueError, match=rf"no fused version for samples \[3, 8, 8\] with strides \[0, {line}, 1\]"):
        masked_pixel_loss(x, far, ids, 8, backend="fused")
    assert masked_pixel_loss(x, far, ids, 8).item() == 1
    with pytest.raises(ValueError, match="no fused version for tokens of 1 channels and 16384 pixels"):
        masked_pixel_loss(x.new_ones(1, 1, 128**2), images.new_ones(1, 1, 128, 128), ids, 128, backend="fused")
    assert explain(NAME, x, "fused").version == "fused"
    assert explain(NAME, x).version == ("reference" if INTERPRETED else "fused")


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles(device, backend):
    torch.compiler.reset()
    compiled = torch.compile(masked_pixel_loss, fullgraph=True, backend=backend)
    images, ids = pictures(2, 3, 16, 24).to(device), unique_ids(2, 6, 4).to(device)
    prediction = torch.randn(2, 4, 192, generator=seeded()).to(device)
    results = []
    for call in (compiled, masked_pixel_loss):
        leaf = prediction.clone().requires_grad_()
        out = call(leaf, images, ids, 8, backend="fused")
        results.append((out, *torch.autograd.grad(out.mean(), leaf)))
    assert all(map(torch.equal, *results))
