"""What holds for every augmentation alike."""

import copy
import pickle

import pytest
import torch

from sslkit.augmentations import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    MultiCrop,
    Normalize,
    PairedCrop,
    RandomResizedCrop,
    RandomTexture,
    Solarize,
    beit,
    dino,
    looc,
    moco_v2,
    nnclr,
    simclr,
    supervised,
)
from sslkit.augmentations import _base as base

PICTURE = (34, 41)
JITTER = ColorJitter(0.4, 0.4, 0.4, 0.2, p=0.8)


def stripes(u, size):
    """A texture for each row of u: waves of three frequencies."""
    rows = torch.arange(size[0], dtype=torch.float32, device=u.device)[:, None] * u[:, :, None, None]
    columns = torch.arange(size[1], dtype=torch.float32, device=u.device) * u.flip(1)[:, :, None, None]
    return (3 * (rows + columns)).sin() / 2 + 0.5


PARTS = {
    "RandomResizedCrop": RandomResizedCrop((20, 24)),
    "HorizontalFlip": HorizontalFlip(),
    "ColorJitter": JITTER,
    "Grayscale": Grayscale(0.5),
    "Solarize": Solarize(0.5),
    "GaussianBlur": GaussianBlur(p=0.5),
    "GaussianBlur, boxes": GaussianBlur(p=0.5, pillow=True),
    "RandomTexture": RandomTexture(stripes, p=0.5),
    "Normalize": Normalize(),
    "Compose": Compose(RandomResizedCrop(24), HorizontalFlip(), JITTER, Compose(Grayscale(), GaussianBlur()), Solarize()),
    "MultiCrop": MultiCrop((Compose(RandomResizedCrop(24), JITTER), RandomResizedCrop((9, 12)))),
    "PairedCrop": PairedCrop(Compose(Solarize(), HorizontalFlip()), (RandomResizedCrop(24), RandomResizedCrop((9, 12)))),
    "beit": beit(24, 16),
    "dino": dino(24, 12, 1),
    "looc": looc(24, ("color",)),
    "moco_v2": moco_v2(24),
    "nnclr": nnclr(24),
    "simclr": simclr(24),
    "supervised": supervised(24),
}
IN_RANGE = [name for name in PARTS if name != "Normalize"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(batch=10, dtype=torch.float32):
    levels = torch.randint(0, 256, (batch, 3, *PICTURE), generator=seeded(7), dtype=torch.uint8)
    return levels if dtype == torch.uint8 else (levels.float() / 255).to(dtype)


def views(result):
    return result if isinstance(result, list) else [result]


def every_part_proves(*proofs):
    """Parametrizes over the parts; the case of each carries the mark of its own component."""
    marks = {name: pytest.mark.proves(f"augmentations.{name.split(',')[0]}", *proofs) for name in PARTS}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


@pytest.mark.parametrize("name", PARTS)
def test_replays_exactly_and_leaves_its_input_alone(name):
    part, images = PARTS[name], pictures()
    before = images.clone()
    parameters = part.sample(10, PICTURE, generator=seeded())
    assert tuple(parameters) == part.keys
    first = views(part.apply(images, parameters))
    again = views(part.apply(images, {key: value.clone() for key, value in parameters.items()}))
    called = views(part(images, generator=seeded()))
    for a, b, c in zip(first, again, called, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert torch.equal(images, before)


@pytest.mark.parametrize("block_bytes", [1, 3 * 34 * 41 * 4 * 3, 2**30])
@pytest.mark.parametrize("name", PARTS)
def test_a_row_depends_on_its_own_sample_and_parameters_only(name, block_bytes, monkeypatch):
    monkeypatch.setattr(base, "_BLOCK_BYTES", block_bytes)  # blocks of 1, of 3 and a rest, of all
    part, images = PARTS[name], pictures()
    parameters = part.sample(10, PICTURE, generator=seeded())
    whole = views(part.apply(images, parameters))
    order = torch.tensor([8, 1, 1, 5])
    some = views(part.apply(images[order], {key: value[order] for key, value in parameters.items()}))
    for a, b in zip(whole, some, strict=True):
        # matrix products of another batch may sum in another order
        torch.testing.assert_close(a[order], b, rtol=0, atol=1e-6 if name != "Normalize" else 1e-5)


def test_parameters_can_be_merged():
    jitter, images = JITTER, pictures()
    query, key = (jitter.sample(10, PICTURE, generator=seeded(s)) for s in (1, 2))
    key["hue"] = query["hue"]
    merged = jitter.apply(images, key)
    assert not torch.equal(merged, jitter.apply(images, query))
    assert torch.equal(merged, jitter.apply(images, key))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "part",
    [
        HorizontalFlip(0),
        ColorJitter(0.4, 0.4, 0.4, 0.4, p=0),
        Grayscale(0),
        Solarize(0),
        GaussianBlur(p=0),
        RandomTexture(stripes, p=0),
        Compose(JITTER.__class__(p=0), Grayscale(0)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_probability_zero_is_the_identity_bit_for_bit(part, dtype):
    images = pictures(dtype=dtype)
    assert torch.equal(part(images), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", IN_RANGE)
def test_dtype_and_range_are_kept(name, dtype):
    for view in views(PARTS[name](pictures(dtype=dtype), generator=seeded())):
        assert view.dtype == dtype
        assert view.is_contiguous()
        assert view.min() >= 0
        assert view.max() <= (255 if dtype == torch.uint8 else 1)


@pytest.mark.parametrize("name", IN_RANGE)
def test_uint8_is_the_rounded_float_result(name):
    part = PARTS[name]
    parameters = part.sample(10, PICTURE, generator=seeded())
    whole = views(part.apply(pictures(), parameters))
    for levels, exact in zip(views(part.apply(pictures(dtype=torch.uint8), parameters)), whole, strict=True):
        torch.testing.assert_close(levels.float(), exact * 255, rtol=0, atol=0.51)  # half a level, and float32's rounding


@every_part_proves("half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bit_input_is_rounded_once(name, dtype, autocast):
    part, images = PARTS[name], pictures(dtype=dtype)
    parameters = part.sample(10, PICTURE, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = views(part.apply(images, parameters))
        wide = views(part.apply(images.float(), parameters))
    for a, b in zip(got, wide, strict=True):
        assert torch.equal(a, b.to(dtype))
    for a, b in zip(wide, views(part.apply(images.float(), parameters)), strict=True):
        assert torch.equal(a, b)  # autocast changes nothing


@every_part_proves("compile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_fullgraph_compile_equals_eager(name, dtype):
    if name == "Normalize":
        dtype = torch.float32  # it takes no uint8
    part, images = PARTS[name], pictures(4, dtype)
    parameters = part.sample(4, PICTURE, generator=seeded())
    torch.compiler.reset()
    compiled = torch.compile(part.apply, backend="aot_eager", fullgraph=True)
    for a, b in zip(views(compiled(images, parameters)), views(part.apply(images, parameters)), strict=True):
        # addcmul is decomposed into two roundings; measured 3e-6. A level of uint8 can tip over by it.
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=1e-5 if dtype == torch.float32 else 1)


@every_part_proves("pickle")
def test_copies_compare_equal_and_do_the_same(name):
    part, images = PARTS[name], pictures(3)
    for twin in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert twin == part
        assert hash(twin) == hash(part)
        assert repr(twin) == repr(part)
        for a, b in zip(views(twin(images, generator=seeded())), views(part(images, generator=seeded())), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", [n for n in PARTS if n != "Normalize"])
def test_draws_by_index_belong_to_the_sample(name):
    part = PARTS[name]
    indices = torch.arange(100, 200)
    whole = part.sample(100, PICTURE, indices=indices, seed=3, epoch=2)
    some = part.sample(2, PICTURE, indices=indices[[70, 5]], seed=3, epoch=2)
    for key in part.keys:
        assert torch.equal(whole[key][[70, 5]], some[key])
        if name in ("beit", "dino") and len(whole[key].unique()) == 1:
            continue  # no hue, always jittered; always blurred
        for other in ({"seed": 3, "epoch": 3}, {"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 2, "offset": 999}):
            assert not torch.equal(whole[key], part.sample(100, PICTURE, indices=indices, **other)[key])


def test_an_empty_batch_stays_empty():
    for name, part in PARTS.items():
        for view in views(part(pictures(0))):
            assert view.shape[0] == 0, name


@every_part_proves("errors")
def test_wrong_parameters_and_sources(name):
    part, images = PARTS[name], pictures(4)
    with pytest.raises(ValueError, match=r"got indices with a generator; expected .* To mend: "):
        part(images, indices=torch.arange(4), seed=0, generator=seeded())
    with pytest.raises(ValueError, match=r"got images \[3, 34, 41\], 3 axes; expected .* To mend: "):
        part(images[0])
    if part.keys:
        with pytest.raises(ValueError, match=r"got parameters without .*; expected the keys .* To mend: "):
            part.apply(images, {})
        with pytest.raises(ValueError, match=r"got 5 rows of .* for 4 images; expected one row a sample. To mend: "):
            part.apply(images, part.sample(5, PICTURE))


def test_gradients_reach_the_images():
    for name in ("RandomResizedCrop", "HorizontalFlip", "GaussianBlur", "Normalize", "Grayscale", "ColorJitter", "RandomTexture"):
        images = pictures(2).requires_grad_()
        PARTS[name](images, generator=seeded()).square().sum().backward()
        assert images.grad.isfinite().all(), name


@pytest.mark.parametrize("name", PARTS)
def test_the_default_dtype_has_no_say(name):
    part, images = PARTS[name], pictures(3)
    parameters = part.sample(3, PICTURE, generator=seeded())
    want = views(part.apply(images, parameters))
    torch.set_default_dtype(torch.float64)
    try:
        got = views(part.apply(images, parameters))
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
