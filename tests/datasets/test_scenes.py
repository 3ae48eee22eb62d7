import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sslkit import counter
from sslkit.datasets import CLASSES, FAMILIES, Scenes
from sslkit.datasets._backgrounds import tile_bank
from sslkit.datasets._parameters import CONTRAST, make_room
from sslkit.datasets._render import render
from sslkit.datasets._shapes import signed_distance
from sslkit.testing import proves


@pytest.fixture(scope="module")
def test_batch():
    return Scenes("test", 48).batch(range(1000))


def knn_accuracy(train, train_labels, test, test_labels, classes=12):
    """k = 10, weights exp(s / .1), cosine."""
    similarity = F.normalize(test.flatten(1), dim=1) @ F.normalize(train.flatten(1), dim=1).T
    values, ids = similarity.topk(10, dim=1)
    votes = torch.zeros(len(test), classes).scatter_add_(1, train_labels[ids], (values / 0.1).exp())
    return (votes.argmax(dim=1) == test_labels).float().mean().item()


def test_hash_gives_the_published_check_values():
    assert counter.mix(torch.tensor([0, 1, 2, 12345, 2**32 - 1])).tolist() == [0, 1753845952, 3507691905, 2435775735, 1734902346]
    key = counter.keys(torch.arange(4), counter.stream(0, 0))
    assert key.tolist() == [218692842, 1372949003, 1676441168, 1244325726]
    torch.testing.assert_close(counter.uniform(key, 0), torch.tensor([0.247247, 0.799307, 0.878927, 0.781963]), rtol=0, atol=1e-6)
    torch.testing.assert_close(counter.uniform(key, 1), torch.tensor([0.361289, 0.530934, 0.774093, 0.783833]), rtol=0, atol=1e-6)
    batch = Scenes("train", 24).batch(range(4))
    assert batch.labels.tolist() == [2, 9, 10, 9]
    assert batch.family.tolist() == [2, 4, 6, 6]


@proves("datasets.Scenes", "property")
@pytest.mark.parametrize(
    ("options", "mean", "mask"),
    [
        ({"split": "train", "size": 64}, [0.41659, 0.50131, 0.52772, 0.46354], [0.09346, 0.15442, 0.09157, 0.1197]),
        (
            {"split": "test", "size": 33, "pose": "quarters", "preset": "easy"},
            [0.50706, 0.43133, 0.72161, 0.56639],
            [0.22945, 0.1721, 0.25714, 0.19882],
        ),
        (
            {"split": "probe", "size": 48, "pose": "free", "seed": 7, "swapped": True},
            [0.44056, 0.58574, 0.38663, 0.57281],
            [0.10892, 0.168, 0.101, 0.07996],
        ),
    ],
)
def test_pictures_are_pinned(options, mean, mask):
    # means over 8-bit pictures: the last bit of another machine's cosine moves them by far less than the tolerance.
    batch = Scenes(**options).batch(range(4))
    levels = (batch.images * 255).round() / 255
    torch.testing.assert_close(levels.mean(dim=(1, 2, 3)), torch.tensor(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(batch.masks.mean(dim=(1, 2)), torch.tensor(mask), rtol=0, atol=1e-4)


@proves("datasets.Scenes", "property")
@settings(deadline=None, max_examples=12)
@given(
    size=st.sampled_from([24, 27, 37]),  # odd ones leave a rest to vector loops
    indices=st.lists(st.integers(0, 1999), min_size=1, max_size=40),
    pose=st.sampled_from(["upright", "free", "quarters"]),
    seed=st.integers(0, 1),
    data=st.data(),
)
def test_a_picture_depends_on_its_index_alone(size, indices, pose, seed, data):
    scenes = Scenes("probe", size, pose=pose, seed=seed)
    together = scenes.batch(indices)
    at = data.draw(st.integers(0, len(indices) - 1))
    torch.manual_seed(seed)  # the global generator must not matter
    alone = scenes.batch([indices[at]])
    for name in vars(together):
        assert torch.equal(getattr(together, name)[at], getattr(alone, name)[0]), name
    assert together.images.min() >= 0
    assert together.images.max() <= 1


def test_the_thread_count_does_not_matter_and_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    one = Scenes("test", 51, seed=11).batch(range(64))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        tile_bank.cache_clear()  # so that the tiles, too, are drawn by three
        three = Scenes("test", 51, seed=11).batch(range(64))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.images, three.images)
    assert torch.equal(state, torch.random.get_rng_state())


@proves("datasets.Scenes", "property")
@pytest.mark.parametrize("options", [{}, {"preset": "easy", "pose": "free"}, {"preset": "tiny"}], ids=str)
def test_objects_lie_wholly_inside(options):
    batch = Scenes("test", 64, **options).batch(range(600))
    # an object cut by the border would cover less than the same outline in the middle of the picture.
    p = Scenes("test", 64, **options)._parameters(torch.arange(600))
    middle = replace(p, x=torch.zeros_like(p.x), y=torch.zeros_like(p.y))
    area, whole = batch.masks.mean(dim=(1, 2)), render(middle, 64, 0, 1)[1].mean(dim=(1, 2))
    torch.testing.assert_close(area, whole, rtol=0.02, atol=0)
    low, high = {"tiny": (0.02, 0.2), "easy": (0.06, 0.42)}.get(options.get("preset"), (0.035, 0.32))
    assert area.min() > low
    assert area.max() < high


@pytest.mark.parametrize("cls", range(12))
def test_area_of_the_mask_is_the_outlines(cls):
    at = (torch.arange(500) + 0.5) / 500 * 2.5 - 1.25
    y, x = torch.meshgrid(at, at, indexing="ij")
    inside = (signed_distance(CLASSES[cls], x, y) < 0).float().mean() * 2.5**2
    batch = Scenes("test", 96).batch(range(150))
    rows = batch.labels == cls
    drawn = batch.masks[rows].mean(dim=(1, 2)) * 4 / batch.scale[rows] ** 2
    torch.testing.assert_close(drawn, inside.expand_as(drawn), rtol=0.03, atol=0)


def test_outlines_have_their_known_areas():
    at = (torch.arange(1000) + 0.5) / 1000 * 2.5 - 1.25
    x, y = at[None, :].expand(1000, 1000), at[:, None].expand(1000, 1000)
    pi = torch.pi
    known = {
        "disc": pi * 0.85**2,
        "square": 1.52**2,
        "triangle": 0.75 * 3**0.5,
        "star": 10 / 2 * 1 * 0.42 * math.sin(pi / 5),
        "ring": pi * (0.91**2 - 0.45**2),
        "plus": 2 * 1.84 * 0.6 - 0.6**2,
        "arrow": 0.75 * 0.85 + 0.56 * 1.1,
        "T": 1.7 * 0.5 + 0.54 * 1.35,
        "L": 0.55 * 1.9 + 0.9 * 0.55,
    }
    for name, area in known.items():
        assert (signed_distance(name, x, y) < 0).float().mean().item() * 6.25 == pytest.approx(area, rel=5e-3), name


@proves("datasets.Scenes", "property")
def test_the_mask_is_where_the_picture_differs_from_its_background(test_batch):
    background = Scenes("test", 48).backgrounds(range(1000))
    differs = (test_batch.images - background).abs().amax(dim=1)
    assert torch.all(differs[test_batch.masks == 0] == 0)
    assert (differs[test_batch.masks == 1] > 0.02).float().mean() > 0.98


@proves("datasets.Scenes", "property")
@pytest.mark.parametrize("pose", ["upright", "quarters"])
def test_swapping_keeps_the_object_to_the_bit(pose):
    one, two = (Scenes("test", 48, pose=pose, swapped=swapped).batch(range(400)) for swapped in (False, True))
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.masks, two.masks)
    inside = (one.masks == 1)[:, None].expand_as(one.images)
    assert torch.equal(one.images[inside], two.images[inside])
    assert torch.all(one.family != two.family)
    assert torch.bincount(two.family, minlength=8).min() > 20
    outside = one.masks == 0
    assert ((one.images - two.images).abs().amax(dim=1)[outside] > 0.02).float().mean() > 0.9


def test_background_correlation_links_and_swapping_breaks_it():
    labels, family = (getattr(Scenes("train", 24, background_correlation=0.8).batch(range(3000)), name) for name in ("labels", "family"))
    # 0.8 + 0.2 / 8 = 0.825; the standard error at 3000 is 0.007.
    assert (family == labels % len(FAMILIES)).float().mean().item() == pytest.approx(0.825, abs=0.025)
    broken = Scenes("train", 24, background_correlation=0.8, swapped=True).batch(range(3000))
    assert (broken.family == labels % len(FAMILIES)).float().mean() < 0.06
    whole = Scenes("train", 24, background_correlation=1.0).batch(range(100))
    assert torch.equal(whole.family, whole.labels % 8)


@proves("datasets.Scenes", "property")
@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0.15, 0.9), st.floats(0.1, 0.9), st.floats(0.1, 0.9)), min_size=1, max_size=20))
def test_the_background_always_gives_way(triples):
    luminance, low, high = torch.tensor(triples, dtype=torch.float64).unbind(dim=1)
    new_low, new_high = make_room(luminance, low, high)
    assert torch.all(((new_low + new_high) / 2 - luminance).abs() >= CONTRAST - 1e-9)
    assert min(new_low.min(), new_high.min()) >= -1e-9
    assert max(new_low.max(), new_high.max()) <= 1 + 1e-9
    far = ((low + high) / 2 - luminance).abs() >= CONTRAST
    torch.testing.assert_close(new_low[far], low[far])


def test_measured_contrast(test_batch):
    # light, texture and the cut at 1 move an object's mean away from its nominal luminance, so a few have less than .28.
    background = Scenes("test", 48).backgrounds(range(1000)).mean(dim=(1, 2, 3))
    weight = test_batch.masks[:, None]
    contrast = ((test_batch.images * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)) / 3 - background).abs()
    assert contrast.min() > 0.1
    assert (contrast > 0.28 - 0.08).float().mean() > 0.95


@proves("datasets.Scenes", "property")
def test_a_quarter_turn_is_rot90():
    upright, turned = Scenes("test", 41).batch(range(200)), Scenes("test", 41, pose="quarters").batch(range(200))
    assert torch.bincount(turned.quarter, minlength=4).min() > 30
    for one, two, mask_one, mask_two, quarter in zip(
        upright.images, turned.images, upright.masks, turned.masks, turned.quarter.tolist(), strict=True
    ):
        assert torch.equal(one.rot90(quarter, (1, 2)), two)
        assert torch.equal(mask_one.rot90(quarter, (0, 1)), mask_two)


def test_the_hue_can_be_read_from_the_object(test_batch):
    # grey light and texture scale all channels alike, so the differences of the channels keep the hue; cut channels are left out.
    weight = test_batch.masks[:, None]
    colour = (test_batch.images * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    angle = torch.arange(3) / 3 * 2 * torch.pi
    read = torch.atan2((colour * angle.sin()).sum(dim=1), (colour * angle.cos()).sum(dim=1)) / (2 * torch.pi) % 1
    error = ((read - test_batch.hue + 0.5) % 1 - 0.5).abs()
    assert error.median() < 0.02
    assert error.quantile(0.95) < 0.06
    assert torch.equal(test_batch.hue_bin, (8 * test_batch.hue).long())


def test_boxes_hold_the_object(test_batch):
    for mask, (left, top, right, bottom) in zip(test_batch.masks, test_batch.boxes.tolist(), strict=True):
        inside = mask >= 0.5
        assert inside[top:bottom, left:right].sum() == inside.sum()
        assert inside[top].any()
        assert inside[bottom - 1].any()
        assert inside[:, left].any()
        assert inside[:, right - 1].any()


@proves("datasets.Scenes", "property")
def test_nothing_leaks_the_class():
    probe, test = Scenes("probe", 32, count=1500), Scenes("test", 32, count=1000)
    known, asked = probe.batch(range(1500)), test.batch(range(1000))
    # chance is 1/12 = .083 with a standard error of .009 at 1000 pictures: four of them.
    assert knn_accuracy(probe.backgrounds(range(1500)), known.labels, test.backgrounds(range(1000)), asked.labels) < 0.12
    assert knn_accuracy(known.images, known.labels, asked.images, asked.labels) > 0.13
    assert knn_accuracy(known.masks, known.labels, asked.masks, asked.labels) > 0.5


def test_numbers_are_not_correlated_with_the_class_or_each_other():
    p = vars(Scenes("train", 24, pose="quarters")._parameters(torch.arange(4000)))
    one_hot = F.one_hot(p["label"], 12).double()
    # background luminance depends on the object's by design (it gives way); colours and scale follow from the numbers kept here.
    names = (
        "family",
        "tile",
        "x_offset",
        "y_offset",
        "hue",
        "luminance",
        "angle",
        "x",
        "y",
        "quarter",
        "texture",
        "texture_tile",
        "light",
    )
    numbers = torch.stack([p[name].double() for name in names], dim=1)
    matrix = torch.corrcoef(torch.cat([one_hot, numbers], dim=1).T)
    matrix[:12, :12] = 0
    # 0.0158 is one standard error at 4000; among 234 pairs the largest of chance is about 3.2 of them.
    assert matrix.fill_diagonal_(0).abs().max() < 4.5 * 0.0158


def test_classes_and_families_are_even_and_splits_differ():
    batch = Scenes("train", 24).batch(range(4000))
    assert torch.bincount(batch.labels, minlength=12).min() > 270
    assert torch.bincount(batch.family, minlength=8).min() > 430
    assert torch.equal(Scenes("train", 24, classes=5).batch(range(500)).labels.unique(), torch.arange(5))
    pictures = [Scenes(split, 24).batch(range(50)).images for split in Scenes.splits] + [
        Scenes("train", 24, seed=1).batch(range(50)).images
    ]
    for i, one in enumerate(pictures):
        for two in pictures[i + 1 :]:
            assert (one - two).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_the_same_scene_at_every_size():
    small, large = Scenes("test", 48).batch(range(100)), Scenes("test", 96).batch(range(100))
    assert torch.equal(small.labels, large.labels)
    assert torch.equal(small.centre, large.centre)
    difference = (F.avg_pool2d(large.masks, 2) - small.masks).abs()  # corners are where one pixel and four disagree
    assert difference.max() < 0.45
    assert difference.mean() < 0.005
    assert Scenes("test", 224).batch([0]).masks.shape == (1, 224, 224)


@proves("datasets.Scenes", "pickle")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with one core
def test_copies_and_workers_draw_the_same():
    scenes = Scenes("test", 32, count=40, pose="free")
    for other in (copy.deepcopy(scenes), pickle.loads(pickle.dumps(scenes))):
        assert other == scenes
        assert torch.equal(other.batch([3]).images, scenes.batch([3]).images)
    assert len(pickle.dumps(scenes)) < 1000  # workers rebuild the tiles
    here = list(DataLoader(scenes, 16))
    there = list(DataLoader(scenes, 16, num_workers=2, multiprocessing_context="spawn"))
    assert len(here) == len(there) == 3
    for (images, labels), (worker_images, worker_labels) in zip(here, there, strict=True):
        assert torch.equal(images, worker_images)
        assert torch.equal(labels, worker_labels)


def test_indexing_equals_the_batch():
    scenes = Scenes("test", 32, count=5)
    batch = scenes.batch(torch.arange(5))
    assert len(batch) == len(scenes) == 5
    for index, (image, label) in enumerate(scenes):
        assert torch.equal(image, batch.images[index])
        assert label == batch.labels[index]
    assert torch.equal(scenes[-1][0], batch.images[4])
    assert scenes.batch([]).images.shape == (0, 3, 32, 32)
    assert [len(Scenes(split)) for split in Scenes.splits] == [8000, 2000, 4000]


@proves("datasets.Scenes", "errors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"Scenes: got split='val'; expected one of 'train', 'probe', 'test'\. To mend"),
        ({"size": 23}, r"got size=23; expected at least 24"),
        ({"preset": "hard"}, r"got preset='hard'; expected one of"),
        ({"pose": "any"}, r"got pose='any'; expected"),
        ({"background_correlation": 1.5}, r"got background_correlation=1\.5; expected"),
        ({"classes": 13}, r"got classes=13; expected 2 to 12"),
        ({"count": 0}, r"got count=0; expected 1 to 1000000"),
        ({"count": 1_000_001}, r"got count=1000001; expected"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**options)


@proves("datasets.Scenes", "errors")
def test_wrong_indices():
    scenes = Scenes("test", 24, count=10)
    with pytest.raises(IndexError, match=r"Scenes\.batch: got index 10; expected 0 to 9\. To mend"):
        scenes.batch([1, 10])
    with pytest.raises(IndexError, match="got index -1"):
        scenes.backgrounds([-1])
    with pytest.raises(TypeError, match="expected integers"):
        scenes.batch(torch.tensor([0.5]))
    with pytest.raises(TypeError, match="expected integers"):
        scenes.batch(torch.tensor([[1]]))
