"""HOG as an operation: registration, compilation, autocast, which version runs, errors."""

import pytest
import torch
from tests.kernels.hogs import proof, smooth, versions
from torch._subclasses import FakeTensorMode

from sslkit import kernels, targets
from sslkit.kernels import Choice, _choose, explain, hog, use_backend
from sslkit.kernels._hog import compiled, op

CLIPS = {"tubelet": 2, "frame_stride": 2, "window": 5, "cell": 4, "patch": 8}


def arguments(images, ids=None, cell=8, bins=9, window=None, patch=16, tubelet=1, frame_stride=1, backend="auto"):
    return images, ids, cell, bins, window, patch, tubelet, frame_stride, backend


def test_one_function_has_two_names():
    assert targets.hog is kernels.hog


@versions
def test_registration_is_sound(backend):
    """All tests of opcheck: schema, autograd registration, fake tensors, and compilation with dynamic shapes."""
    ids = torch.tensor([[3, 0, 3], [1, 2, 0]])
    for images in (smooth(2, 3, 37, 40), smooth(2, 1, 37, 40).double()):
        torch.library.opcheck(torch.ops.sslkit.hog.default, arguments(images, backend=backend))
        torch.library.opcheck(torch.ops.sslkit.hog.default, arguments(images, ids, backend=backend))
    torch.library.opcheck(torch.ops.sslkit.hog.default, arguments(smooth(2, 1, 7, 24, 16), **CLIPS, backend=backend))


@proof("compile")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_compiles_in_one_graph_for_every_size(backend):
    torch.compiler.reset()
    compiled_hog = torch.compile(hog, fullgraph=True, backend=backend, dynamic=True)
    for shape in [(2, 3, 37, 50), (3, 3, 64, 48), (2, 2, 5, 33, 40)]:
        images = smooth(*shape)
        assert torch.equal(compiled_hog(images), hog(images))
        assert torch.equal(compiled_hog(images, ids=torch.tensor([[1, 0]] * shape[0])), hog(images)[:, [1, 0]])


def test_exports():
    class Model(torch.nn.Module):
        def forward(self, clips):
            return hog(clips, **CLIPS)

    clips = smooth(2, 3, 8, 16, 24)
    exported = torch.export.export(Model(), (clips,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert "sslkit.hog.default" in str(exported.graph)
    for batch in (clips, smooth(5, 3, 8, 16, 24)):
        assert torch.equal(exported.module()(batch), hog(batch, **CLIPS))


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_sizes_are_known_on_a_device_without_numbers(device):
    for shape, options in [((2, 3, 37, 40), {}), ((2, 3, 7, 37, 40), CLIPS)]:
        real = hog(smooth(*shape), **options)
        with FakeTensorMode():
            fake = hog(torch.empty(shape, dtype=torch.uint8, device=device), **options)
            some = hog(torch.empty(shape, device=device), ids=torch.empty(2, 3, dtype=torch.int64, device=device), **options)
        assert (fake.shape, fake.stride(), fake.dtype, fake.device.type) == (real.shape, real.stride(), torch.float32, device)
        assert some.shape == (2, 3, real.shape[2])


@proof("half")
@versions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(backend, dtype):
    """Levels are exact in 16 bits; of other numbers the result is that of the same numbers in float32. Autocast changes nothing."""
    levels = smooth(2, 3, 32, 48)
    photo = ((levels.float() / 255 - 0.456) / 0.224).to(dtype)
    expected = [hog(x, backend=backend) for x in (levels, photo.float())]
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            got = [hog(x, backend=backend) for x in (levels.to(dtype), photo)]
            window = hog(levels, window=16, backend=backend)
        assert [x.dtype for x in got] == [torch.float32] * 2
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert torch.equal(window, hog(levels, window=16, backend=backend))


def test_it_has_no_gradient_and_shares_no_memory():
    images = smooth(1, 3, 32, 32).float().requires_grad_()
    out = hog(images)
    assert not out.requires_grad
    assert out.is_contiguous()
    for shape, options in [((1, 1, 8, 8), {"cell": 1, "bins": 1, "patch": 1}), ((2, 1, 16, 16), {}), ((2, 3, 16, 16), {"cell": 16})]:
        images = smooth(*shape).float()
        out = hog(images, **options)
        assert out.is_contiguous()
        assert out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
        assert hog(images[:0], **options).shape == (0, *out.shape[1:])


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch 2.11's own, when it loads inductor
def test_the_compiled_version_equals_the_reference():
    """Batches that its groups of four do not divide, clips, a window, ids, inside of autocast and of a program that is compiled itself."""
    for shape, options in [((6, 1, 37, 40), {}), ((1, 1, 13, 24, 16), CLIPS | {"bins": 12})]:
        images = smooth(*shape)
        got = hog(images, backend="compiled", **options)
        torch.testing.assert_close(got, hog(images, backend="reference", **options), rtol=0, atol=5e-7)
        with torch.autocast("cpu"):
            assert torch.equal(hog(images.bfloat16(), backend="compiled", **options), got)
        photo = (images.float() / 255 - 0.456) / 0.224  # where rounding decides: the same bins
        photo = [hog(photo, backend=backend, **options) for backend in ("compiled", "reference")]
        torch.testing.assert_close(*photo, rtol=0, atol=5e-7)
    images = smooth(6, 1, 37, 40)
    got = hog(images, backend="compiled")
    assert torch.equal(hog(images, ids=torch.tensor([[2, 1]] * 6), backend="compiled"), got[:, [2, 1]])
    assert torch.equal(torch.compile(hog, fullgraph=True, backend="aot_eager")(images, backend="compiled"), got)
    assert hog(images[:0], backend="compiled").shape == (0, *got.shape[1:])
    with torch.inference_mode():
        assert torch.equal(hog(images, backend="compiled"), got)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_compiled_version_takes_any_number_of_sizes_and_workers():
    for extra in range(12):  # beyond the number of programs that torch.compile keeps for a function
        images = smooth(2, 1, 16, 16 + extra)
        torch.testing.assert_close(hog(images, backend="compiled"), hog(images, backend="reference"), rtol=0, atol=5e-7)
    images = smooth(4, 1, 32, 32)
    for context in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(images, 2, num_workers=2, collate_fn=_targets, multiprocessing_context=context, timeout=120)
        torch.testing.assert_close(torch.cat(list(loader)), hog(images), rtol=0, atol=5e-7)


def _targets(images):
    return hog(torch.stack(images), backend="compiled")


def test_groups_cover_the_batch_with_one_size():
    for batch, time in [(0, 1), (1, 1), (3, 1), (4, 1), (9, 1), (2, 7), (0, 3)]:
        groups = compiled.groups(batch, time)
        seen = {(b, t) for samples, frames in groups for b in range(batch)[samples] for t in range(time)[frames]}
        assert seen == {(b, t) for b in range(batch) for t in range(time)}
        assert len({(s.stop - s.start, f.stop - f.start) for s, f in groups}) <= 1


def test_the_version_that_runs_is_told():
    x = smooth(1, 3, 16, 16)
    assert explain("hog", x) == Choice("reference", "hog has no fused version for cpu and torch.uint8")
    assert explain("hog", x, "reference") == Choice("reference", "asked for by name")
    assert explain("hog", x, "compiled") == Choice("compiled", "asked for by name")
    with use_backend("reference"):
        assert explain("hog", x).reason == "asked for by name"
    with pytest.raises(ValueError, match=r'hog: got backend="compiled" for meta; expected "auto" or "reference"; compiled is for the CPU'):
        explain("hog", x.to("meta"), "compiled")
    for other in ("gather_tokens", "use_backend"):
        with pytest.raises(ValueError, match=f"{other}: got backend='compiled'; expected 'auto' or 'reference' or 'fused'"):
            _ = explain(other, x, "compiled") if other != "use_backend" else use_backend("compiled").__enter__()


def test_a_gpu_takes_the_fused_version_for_its_bins_and_cells():
    pytest.importorskip("triton", reason="Triton is not made for this system")
    with FakeTensorMode():
        images = torch.empty(1, 3, 16, 16, dtype=torch.uint8, device="cuda")
    assert explain("hog", images) == Choice("fused", "hog has a fused version for cuda")
    assert explain("hog", images, "fused") == Choice("fused", "asked for by name")
    assert explain("hog", images.double()) == Choice("reference", "hog has no fused version for cuda and torch.float64")
    for cell, bins, values, limit in [
        (8, 9, 9 * (2**31 - 1), None),
        (8, 9, 9 * 2**31, "2147483648 cells"),
        (4, 9, 108, "cell=4 and bins=9"),
        (8, 12, 108, "cell=8 and bins=12"),
    ]:
        reason = "a fused version for cuda" if limit is None else f"no fused version for {limit}"
        choice = _choose.choose("hog", images, "auto", op._limit(cell, bins, values))
        assert choice == Choice("fused" if limit is None else "reference", f"hog has {reason}")


@proof("errors")
def test_an_explicit_backend_that_cannot_run_raises():
    images = smooth(1, 3, 16, 16)
    for call in (hog, torch.compile(hog, backend="eager")):
        with pytest.raises(Exception, match='hog: got backend="fused", but hog has no fused version for cpu and torch.uint8'):
            call(images, backend="fused")
    with use_backend("fused"), pytest.raises(ValueError, match="To mend: leave backend out"):
        hog(images)
    with pytest.raises(ValueError, match="hog: got backend='quick'; expected 'auto' or 'reference' or 'fused' or 'compiled'"):
        hog(images, backend="quick")


@proof("errors")
def test_wrong_input():
    images, clips = smooth(2, 3, 32, 32), smooth(2, 3, 4, 32, 32)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    for x, options, message in [
        (images[0], {}, r"got images \[3, 32, 32\], 3 axes; expected the axes \[batch, channels, height, width\]"),
        (images, {"patch": 12}, r"got patch=12, cell=8; expected whole cells in a patch. To mend: pass a patch like 16"),
        (images, {"cell": 0}, "got cell=0; expected a whole cell from 1 on"),
        (images, {"bins": 2.5}, "got bins=2.5; expected a whole bins from 1 on"),
        (images, {"window": 1}, "got window=1; expected None or a whole number from 2 on. To mend: pass 16, or leave it out"),
        (images, {"tubelet": 2}, r"got images \[2, 3, 32, 32\] with tubelet=2, frame_stride=1; expected a clip"),
        (images, {"patch": 64}, r"got images \[2, 3, 32, 32\] with height=32; expected at least 64. To mend: pass larger images, or"),
        (images[..., :1], {"cell": 1, "patch": 1}, "with width=1; expected at least 2"),
        (clips, {"tubelet": 5}, r"got images \[2, 3, 4, 32, 32\] with time=4; expected at least 5"),
        (clips, {"tubelet": 3, "frame_stride": 2}, "with time=4; expected at least 5"),
        (images, {"ids": ids[:1]}, r"got ids \[1, 3\] with batch=1; expected batch=2 as in images"),
        (images, {"ids": ids[0]}, r"got ids \[3\], 1 axes; expected the axes \[batch, kept\]"),
        (images, {"ids": ids.to("meta")}, "got ids on meta; expected cpu, where images is"),
    ]:
        with pytest.raises(ValueError, match=message):
            hog(x, **options)
    for x, options, message in [
        (images.long(), {}, "got images of dtype torch.int64; expected uint8 or a floating dtype. To mend: pass the levels as uint8"),
        (images.numpy(), {}, "got images of type ndarray; expected a tensor"),
        (images, {"ids": ids.bool()}, "got ids of dtype torch.bool; expected int64 or int32"),
    ]:
        with pytest.raises(TypeError, match=message):
            hog(x, **options)
