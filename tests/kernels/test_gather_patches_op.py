"""Cutting tokens out of images as an operation: registration, compilation, devices without numbers, which version runs."""

import pytest
import torch
from tests.kernels.cuts import MEAN, STD, pictures, some_ids
from tests.kernels.operations import seeded, value_and_gradients
from torch._subclasses import FakeTensorMode

from sslkit.backbones import ViT
from sslkit.kernels import Choice, explain, gather_patches, use_backend
from sslkit.kernels._gather_patches import cpu
from sslkit.maskers import RandomMasker
from sslkit.testing import proves

NAME = "kernels.gather_patches"
CLIP = {"tubelet": 2, "frame_stride": 2}


def arguments(images, ids, scale=None, bias=None, order="cpq", out_dtype=None, tubelet=1, frame_stride=1, backend="auto"):
    return images, ids, 4, tubelet, frame_stride, scale, bias, order, out_dtype, backend


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own look at its copies
def test_registration_is_sound(grad):
    """All tests of opcheck: schema, autograd registration, fake tensors, and compilation with dynamic shapes."""
    images, clips = (torch.randn(2, 3, *size, generator=seeded(), requires_grad=grad) for size in [(8, 12), (7, 8, 12)])
    ids = some_ids(images, 4, 3)
    op, back = torch.ops.sslkit.gather_patches.default, torch.ops.sslkit.gather_patches_backward.default
    for backend in ("auto", "reference"):
        torch.library.opcheck(op, arguments(images, ids, backend=backend))
        torch.library.opcheck(op, arguments(clips, ids.int(), [2.0] * 3, [0.5] * 3, "pqc", torch.float64, **CLIP, backend=backend))
        values = torch.randn(2, 3, 48, generator=seeded(), requires_grad=grad)
        torch.library.opcheck(back, (values, ids, [2, 3, 8, 12], 4, 1, 1, None, "cpq", torch.float32, backend))
        pairs = torch.randn(2, 3, 96, generator=seeded(), requires_grad=grad)
        torch.library.opcheck(back, (pairs, ids, [2, 3, 7, 8, 12], 4, 2, 2, [2.0] * 3, "pqc", torch.float64, backend))
    if not grad:
        torch.library.opcheck(op, arguments(pictures(2, 3, 8, 12), ids, [1 / 255] * 3, [0.0] * 3))


@proves(NAME, "compile")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_compiles_in_one_graph_forward_and_backward(backend):
    torch.compiler.reset()
    for shape, options in [((2, 3, 8, 12), {}), ((2, 3, 7, 8, 12), {**CLIP, "order": "pqc"})]:
        images = torch.randn(*shape, generator=seeded(), requires_grad=True)
        ids = some_ids(images, 4, 3, **{k: v for k, v in options.items() if k in CLIP})

        def function(images, ids=ids, options=options):
            return gather_patches(images, ids, 4, mean=MEAN[:3], std=STD[:3], **options)

        compiled = torch.compile(function, fullgraph=True, backend=backend)
        for got, expected in zip(value_and_gradients(compiled, [images]), value_and_gradients(function, [images]), strict=True):
            assert torch.equal(got, expected)


@proves(NAME, "compile")
def test_one_graph_serves_every_batch_size():
    torch.compiler.reset()
    graphs = []

    def count(graph, examples):
        graphs.append(graph)
        return graph

    def function(images, ids):
        return gather_patches(images, ids, 4, mean=MEAN[:3], std=STD[:3])

    compiled = torch.compile(function, fullgraph=True, backend=count, dynamic=True)
    for batch in (6, 5, 9):  # unlike the other sizes: equal ones share a symbol
        images = pictures(batch, 3, 8, 16)
        ids = some_ids(images, 4, 7)
        assert torch.equal(compiled(images, ids), function(images, ids))
    assert len(graphs) == 1


def test_exports():
    class Model(torch.nn.Module):
        def forward(self, images, ids):
            return gather_patches(images, ids, 4, mean=MEAN[:3], std=STD[:3])

    images = pictures(2, 3, 8, 12)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(Model(), (images, some_ids(images, 4, 3)), dynamic_shapes=({0: batch}, {0: batch}))
    assert "sslkit.gather_patches.default" in str(exported.graph)
    for some in (images, pictures(5, 3, 8, 12)):
        ids = some_ids(some, 4, 3)
        assert torch.equal(exported.module()(some, ids), Model()(some, ids))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_sizes_dtypes_and_strides_are_known_on_a_device_without_numbers(dtype):
    for shape, options in [((2, 3, 8, 12), {}), ((2, 3, 7, 8, 12), CLIP)]:
        images = pictures(*shape, dtype=dtype)
        grad = images.is_floating_point()
        real = value_and_gradients(lambda x, o=options: gather_patches(x, some_ids(x, 4, 3, **o), 4, **o), [images.requires_grad_(grad)])
        with FakeTensorMode():
            ids = torch.empty(2, 3, dtype=torch.int64, device="cuda")
            fake = gather_patches(torch.empty(shape, dtype=dtype, device="cuda"), ids, 4, **options)
            assert (fake.device.type, fake.shape, fake.dtype, fake.stride()) == ("cuda", real[0].shape, real[0].dtype, real[0].stride())
        meta = torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad)
        out = gather_patches(meta, torch.empty(2, 3, dtype=torch.int64, device="meta"), 4, **options)
        results = [out, *(torch.autograd.grad(out, meta, torch.empty_like(out)) if grad else ())]
        for got, expected in zip(results, real, strict=True):
            assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())


def test_dtypes():
    """float32 for levels, the images' own else; what is asked for is computed wide, not widened. Nothing shares memory."""
    levels = pictures(2, 3, 8, 12)
    ids, options = some_ids(levels, 4, 3), {"mean": MEAN[:3], "std": STD[:3]}
    assert gather_patches(levels, ids, 4).dtype == torch.float32
    exact = gather_patches(levels, ids, 4, out_dtype=torch.float64, **options)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, gather_patches(levels.double() / 255, ids, 4, **options), rtol=1e-12, atol=1e-12)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = pictures(2, 3, 8, 12, dtype=dtype)
        assert gather_patches(images, ids, 4).dtype == dtype
        wide = gather_patches(images, ids, 4, out_dtype=torch.float64, **options)
        torch.testing.assert_close(wide, gather_patches(images.double(), ids, 4, **options), rtol=0, atol=0)
    images = pictures(1, 1, 4, 4, dtype=torch.float32)  # one token, which is the image
    out = gather_patches(images, torch.zeros(1, 1, dtype=torch.int64), 4)
    assert out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


def test_the_version_that_runs_is_told():
    images = pictures(1, 3, 8, 8, dtype=torch.float32)
    assert explain("gather_patches", images) == Choice("reference", "gather_patches has no fused version for cpu and torch.float32")
    assert explain("gather_patches", images, "reference") == Choice("reference", "asked for by name")


def test_the_version_that_runs_on_a_gpu_is_told():
    pytest.importorskip("triton", reason="Triton is not made for this system")
    with FakeTensorMode():
        for dtype, version in [(torch.uint8, "fused"), (torch.bfloat16, "fused"), (torch.float64, "reference"), (torch.int32, "reference")]:
            on_a_gpu = torch.empty(1, 3, 8, 8, dtype=dtype, device="cuda")
            assert explain("gather_patches", on_a_gpu).version == version
        on_a_gpu = torch.empty(1, 3, 8, 8, device="cuda", requires_grad=True)
        reason = "gather_patches has no fused version for images that require grad"
        assert explain("gather_patches", on_a_gpu) == Choice("reference", reason)


def test_the_definition_itself_runs_by_name(monkeypatch):
    """Else "reference" would be compared with nothing."""
    images = pictures(2, 3, 8, 12, dtype=torch.float32).requires_grad_()
    for direction in ("forward", "backward"):
        monkeypatch.delattr(cpu, direction)
    gather_patches(images, some_ids(images, 4, 3), 4, backend="reference").sum().backward()
    with pytest.raises(AttributeError, match="forward"):
        gather_patches(images, some_ids(images, 4, 3), 4)


@proves(NAME, "errors")
def test_an_explicit_backend_that_cannot_run_raises():
    images = pictures(2, 3, 8, 12, dtype=torch.float32)
    ids = some_ids(images, 4, 3)
    for call in (gather_patches, torch.compile(gather_patches, backend="eager")):
        with pytest.raises(Exception, match='gather_patches: got backend="fused", but gather_patches has no fused version for cpu'):
            call(images, ids, 4, backend="fused")
    with use_backend("fused"), pytest.raises(ValueError, match="To mend: leave backend out"):
        gather_patches(images, ids, 4)
    message = 'gather_patches: got backend="fused" for images that require grad; expected "auto" or "reference". To mend: leave backend out'
    with pytest.raises(ValueError, match=message):
        gather_patches(images.clone().requires_grad_(), ids, 4, backend="fused")
    with torch.no_grad(), pytest.raises(ValueError, match="no fused version for cpu"):  # then it is the device that is in the way
        gather_patches(images.clone().requires_grad_(), ids, 4, backend="fused")
    with pytest.raises(ValueError, match="gather_patches: got backend='quick'; expected 'auto' or 'reference' or 'fused'"):
        gather_patches(images, ids, 4, backend="quick")


def test_images_that_require_grad_take_the_reference_on_a_gpu(monkeypatch):
    """What the operation is asked for, on a device that is not the CPU."""
    asked = []
    monkeypatch.setattr(torch.ops.sslkit, "gather_patches", lambda *arguments: asked.append(arguments[-1]))
    images, ids = torch.empty(2, 3, 8, 12, device="meta"), torch.empty(2, 3, dtype=torch.int64, device="meta")
    gather_patches(images, ids, 4)
    gather_patches(images.requires_grad_(), ids, 4)
    with torch.no_grad():
        gather_patches(images, ids, 4)
    assert asked == ["auto", "reference", "auto"]


def test_a_vision_transformer_takes_its_kept_pixels_from_it():
    model = ViT(8, 4, 8, 1, 2)
    images = pictures(2, 3, 8, 8, dtype=torch.float32)
    mask = RandomMasker(0.5)(2, model.base, generator=seeded())
    exported = torch.export.export(model, (images,), {"keep": mask})
    assert str(exported.graph).count("sslkit.gather_patches.default") == 1
    torch.testing.assert_close(exported.module()(images, keep=mask).patches, model(images, keep=mask).patches)
