import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from sslkit.datasets import MOTIONS, Scenes, SceneVideos
from sslkit.datasets.videos import AMPLITUDE
from sslkit.testing import proves


@pytest.fixture(scope="module")
def batch():
    return SceneVideos("test", 32).batch(range(300))


def centres(masks):
    """[batch, time, 2]: centre of mass of the object, half sides, x to the right, y down."""
    size = masks.shape[-1]
    at = (torch.arange(size) * 2 + 1) / size - 1
    mass = masks.sum(dim=(2, 3))
    return torch.stack([(masks.sum(dim=2) * at).sum(dim=-1), (masks.sum(dim=3) * at).sum(dim=-1)], dim=-1) / mass[..., None]


def test_shapes_and_ranges(batch):
    assert batch.clips.shape == (300, 3, 8, 32, 32)
    assert batch.masks.shape == (300, 8, 32, 32)
    assert batch.clips.min() >= 0
    assert batch.clips.max() <= 1
    assert torch.bincount(batch.motion, minlength=6).min() > 30
    assert torch.equal(batch.joint, batch.labels * 6 + batch.motion)
    assert torch.equal(batch.labels, Scenes("test", 32).batch(range(300)).labels)


@proves("datasets.SceneVideos", "property")
def test_the_background_rests(batch):
    still = Scenes("test", 32).backgrounds(range(300))
    outside = (batch.masks == 0)[:, None].expand_as(batch.clips)
    assert torch.equal(batch.clips[outside], still[:, :, None].expand_as(batch.clips)[outside])


@proves("datasets.SceneVideos", "property")
def test_objects_move_as_named_and_stay_inside(batch):
    path = centres(batch.masks)
    span = path.amax(dim=1) - path.amin(dim=1)
    # three quarters of a period sweep more than the amplitude; sampling moves an object at rest by a tenth of a pixel.
    for motion, name in enumerate(MOTIONS):
        rows = batch.motion == motion
        if name.startswith("sway"):
            axis = 0 if name.endswith("x") else 1
            assert span[rows, axis].min() > AMPLITUDE
            assert span[rows, 1 - axis].max() < 0.02
        if name.startswith("circle"):
            assert span[rows].min() > 0.7 * AMPLITUDE
            one, two = path[rows, 0] - path[rows].mean(dim=1), path[rows, 1] - path[rows].mean(dim=1)
            turn = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
            assert torch.all(turn > 0 if name == "circle clockwise" else turn < 0)  # y points down
        if name.startswith("spin"):
            symmetric = rows & (batch.labels == 0)
            assert span[symmetric].max() < 0.02
    area = batch.masks.sum(dim=(2, 3))
    assert ((area.amax(dim=1) - area.amin(dim=1)) / area.mean(dim=1)).max() < 0.06  # cut by the border, it would shrink


@pytest.mark.parametrize("direction", [4, 5])
def test_spins_turn_the_way_they_are_named(batch, direction):
    # the T's centre of mass lies on its axis, away from the middle of its outline; it goes round as the pose does.
    videos = SceneVideos("train", 48, frames=8)
    first = videos.batch(range(600))
    rows = ((first.motion == direction) & (first.labels == 9)).nonzero()[:, 0]
    clip = videos.batch(rows)
    path = centres(clip.masks)
    before, after = path[:, 3] - path[:, 0], path[:, 6] - path[:, 3]
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    assert len(rows) > 3
    assert torch.all(turn > 0 if direction == 4 else turn < 0)


@proves("datasets.SceneVideos", "property")
def test_one_frame_does_not_tell_the_motion():
    probe, test = (SceneVideos(split, 24).batch(range(count)) for split, count in (("probe", 1500), ("test", 700)))

    def accuracy(one, two):
        similarity = F.normalize(two.flatten(1), dim=1) @ F.normalize(one.flatten(1), dim=1).T
        values, ids = similarity.topk(10, dim=1)
        votes = torch.zeros(len(two), 6).scatter_add_(1, probe.motion[ids], (values / 0.1).exp())
        return (votes.argmax(dim=1) == test.motion).float().mean().item()

    # chance is .167, standard error .014 at 700; three of them and the little that place and size tell.
    for frame in (0, 4):
        assert accuracy(probe.clips[:, :, frame], test.clips[:, :, frame]) < 0.23
        assert accuracy(probe.masks[:, frame], test.masks[:, frame]) < 0.23
    assert accuracy(probe.clips, test.clips) > 0.24


@proves("datasets.SceneVideos", "pickle")
def test_a_clip_depends_on_its_index_alone_and_frames_refine_the_path(batch):
    videos = SceneVideos("test", 32)
    alone = pickle.loads(pickle.dumps(videos)).batch([17])
    assert torch.equal(alone.clips[0], batch.clips[17])
    fine = SceneVideos("test", 32, 16).batch(range(20))
    assert torch.equal(fine.clips[:, :, ::2], batch.clips[:20])
    assert torch.equal(videos[17][0], batch.clips[17])
    assert videos[17][1] == batch.joint[17]
    assert not torch.equal(SceneVideos("test", 32, seed=1).batch(range(50)).motion, batch.motion[:50])


def test_path_follows_its_formula():
    from sslkit import counter
    from sslkit.datasets.videos import paths

    key = counter.keys(torch.arange(40), 77)
    motion, x, y, angle = paths(key, 5)
    for i in range(40):
        u = {slot: counter.uniform(key[i], slot, torch.float64).item() for slot in (41, 42, 44, 45)}
        f, phase = 0.75 + 0.5 * u[41], 2 * math.pi * u[42]
        m, rest = int(motion[i]), AMPLITUDE * math.sin(2 * math.pi * u[45])
        for t in range(5):
            s = phase + 2 * math.pi * f * t / 5
            sine, cosine = AMPLITUDE * math.sin(s), AMPLITUDE * math.cos(s)
            held = AMPLITUDE * math.sin(phase)
            expected = [(sine, rest), (rest, sine), (cosine, sine), (cosine, -sine), (rest, held), (rest, held)][m]
            turned = 2 * math.pi * u[44] + {4: -1, 5: 1}.get(m, 0) * math.pi * f * t / 5
            assert (x[i, t].item(), y[i, t].item(), angle[i, t].item()) == pytest.approx((*expected, turned), abs=1e-12)


@proves("datasets.SceneVideos", "errors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "got frames=0; expected at least 1"),
        ({"size": 8}, "SceneVideos: got size=8"),
        ({"split": "x"}, "got split='x'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SceneVideos(**options)
