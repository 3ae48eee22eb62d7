"""Videos written here, and clips of them read back."""

import dataclasses
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from sslkit.datasets import Broken, ClipFolder, uniform_frames
from sslkit.testing import proves

av = pytest.importorskip("av", reason="PyAV is an extra")
NAME = "datasets.ClipFolder"


def write(path, frames, width=48, height=32, rate=10, noise=False):
    """A video whose frame t is grey of level 8 t, but for a red bar on the left; or noise that moves."""
    points = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 2_000_000
        for t in range(frames):
            picture = torch.full((height, width, 3), 8 * t, dtype=torch.uint8)
            picture[:, : width // 6] = torch.tensor([255, 0, 0], dtype=torch.uint8)
            picture = points.roll(t, dims=1) if noise else picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write(root / "run" / "a.mp4", 30)
    write(root / "run" / "b.MKV", 20)
    write(root / "swim" / "c.avi", 16)
    write(root / "swim" / "short.mp4", 3)
    write(root / "loose.mp4", 24, width=32, height=48)
    (root / "swim" / "empty.mp4").write_bytes(b"")
    (root / "swim" / "noise.mp4").write_bytes(bytes(range(256)) * 16)
    whole = (root / "run" / "a.mp4").read_bytes()
    (root / "swim" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    stream = (root / "run" / "b.MKV").read_bytes()
    (root / "swim" / "torn.mkv").write_bytes(stream[: len(stream) * 2 // 3])
    (root / "notes.txt").write_text("no video")
    return root


def times(clip):
    """The frame numbers that a clip shows, by its levels."""
    return (clip[:, :, :, clip.shape[-1] // 2 :].float().mean(dim=(0, 2, 3)) / 8).round().int().tolist()


@proves(NAME, "property")
def test_clips_show_the_frames_that_were_asked_for(root):
    folder = ClipFolder(root, 16, 4, frame_stride=3)
    names = [os.path.relpath(path, root) for path in folder.paths]
    assert names == ["loose.mp4", "run/a.mp4", "run/b.MKV", "swim/c.avi", *(f"swim/{x}" for x in ("cut.mp4", "empty.mp4", "noise.mp4")),
                     "swim/short.mp4", "swim/torn.mkv"]  # fmt: skip
    for name, total in [("loose.mp4", 24), ("run/a.mp4", 30), ("run/b.MKV", 20), ("swim/c.avi", 16)]:
        item = folder[names.index(name)]
        assert (item.clip.shape, item.clip.dtype) == ((3, 4, 16, 16), torch.uint8)
        start = (total - 10) // 2
        assert times(item.clip) == [start, start + 3, start + 6, start + 9]
    assert [folder[i].label for i in (0, 1, 3)] == [-1, 0, 1]
    assert folder.classes == ("run", "swim")
    assert folder[-1].index == 8
    assert times(ClipFolder(root, 16, 4, sampling="uniform")[3].clip) == [3, 6, 10, 13]
    wide = ClipFolder(root, 32, 2)[1].clip  # the middle 32 of 48 columns: none of the red bar of 8
    assert wide[0, 0].float().std() < 2


@proves(NAME, "loop")
def test_drawn_starts_belong_to_seed_epoch_and_index(root):
    folder = ClipFolder(root, 16, 4, frame_stride=2, seed=3)
    starts = {times(dataclasses.replace(folder, epoch=epoch)[1].clip)[0] for epoch in range(12)}
    assert len(starts) > 5
    assert starts <= set(range(30 - 6))
    assert torch.equal(folder[1].clip, ClipFolder(root, 16, 4, frame_stride=2, seed=3)[1].clip)
    places = [dataclasses.replace(folder, epoch=epoch).places(10, 0)[0] for epoch in range(400)]
    assert set(places) == {0, 1, 2, 3}  # every start that fits, and none else
    assert min(places.count(start) for start in range(4)) > 60


@proves(NAME, "property")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_what_cannot_be_read_is_named_and_counted(root):
    folder = ClipFolder(root, 16, 8)
    batches = list(DataLoader(folder, 4, collate_fn=ClipFolder.collate, num_workers=2))
    assert torch.cat([b.indices for b in batches]).tolist() == [0, 1, 2, 3, 8]  # the torn one has lost its end, not its middle
    skipped = {os.path.basename(path): reason for batch in batches for path, reason in batch.skipped}
    assert {"cut.mp4", "empty.mp4", "noise.mp4", "short.mp4"} <= skipped.keys()
    assert skipped["short.mp4"] == "ValueError: 3 frames, 8 needed for 8 at stride 1"
    assert all(skipped.values())
    torn = ClipFolder(root, 16, 18)[8]  # of its 20 frames fewer are left
    assert isinstance(torn.clip, Broken)
    assert "18 needed" in torn.clip.reason or "cannot be decoded" in torn.clip.reason
    nothing = ClipFolder.collate([folder[5]])
    assert (nothing.clips.shape, len(nothing.labels), len(nothing.skipped)) == ((0, 3, 0, 0, 0), 0, 1)


@proves(NAME, "property")
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_no_clip_rests_on_damaged_frames(tmp_path, suffix):
    """A decoder that meets wrong bytes guesses and goes on: each clip that is read is the one that was written."""
    path = tmp_path / f"a.{suffix}"
    write(path, 30, noise=True)
    whole, clean = path.read_bytes(), ClipFolder(tmp_path, 32, 16)[0].clip
    refused = 0
    for seed in range(8):
        path.write_bytes(torn(whole, seed))
        clip = ClipFolder(tmp_path, 32, 16)[0].clip
        refused += isinstance(clip, Broken)
        assert isinstance(clip, Broken) or torch.equal(clip, clean)
    assert refused
    path.write_bytes(whole[:-1])
    assert torch.equal(ClipFolder(tmp_path, 32, 4)[0].clip, clean[:, 6:10])  # damage beyond the clip's frames does not matter


def torn(whole, seed):
    """Six bytes of the middle half are replaced."""
    places, values = torch.randint(len(whole) // 4, 3 * len(whole) // 4, (2, 6), generator=torch.Generator().manual_seed(seed))
    damaged = bytearray(whole)
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        damaged[place] = value % 256
    return bytes(damaged)


@proves(NAME, "pickle")
def test_pickles_and_prints_briefly(root):
    folder = ClipFolder(root, 16, 4)
    again = pickle.loads(pickle.dumps(folder))
    assert (again, again.paths) == (folder, folder.paths)
    assert len(repr(folder)) < 300


@proves("datasets.uniform_frames", "loop", "property")
def test_uniform_frames():
    assert uniform_frames(16, 4) == [3, 6, 10, 13]
    assert uniform_frames(8, 2) == [3, 5]  # the sum of floats gives a third one here
    for total in range(1, 40):
        for count in range(1, 40):
            frames = uniform_frames(total, count)
            assert len(frames) == min(total, count)
            assert frames == sorted(set(frames))
            assert 0 <= frames[0] <= frames[-1] < total
            if count < total:
                assert all(abs(f - i * total / (count + 1)) <= 0.5 for i, f in enumerate(frames, 1))


@proves(NAME, "errors")
@proves("datasets.uniform_frames", "errors")
def test_wrong_input(tmp_path, root):
    for arguments, options, message in [
        ((tmp_path / "none", 16, 4), {}, "ClipFolder: got root .*, which is no folder; expected a folder of videos"),
        ((tmp_path, 16, 4), {}, r"no video in it; expected a \.mp4, \.mov, \.mkv, \.webm, \.avi file"),
        ((root, 0, 4), {}, "got size=0"),
        ((root, 16, 0), {}, "got frames=0"),
        ((root, 16, 4), {"frame_stride": 0}, "got frame_stride=0"),
        ((root, 16, 4), {"sampling": "random"}, "got sampling='random'; expected 'dense' or 'uniform'"),
        ((root, 16, 4), {"labels": "name"}, "got labels='name'"),
        ((root, 16, 4), {"sampling": "uniform", "frame_stride": 2}, "expected frame_stride=1"),
    ]:
        with pytest.raises(ValueError, match=message):
            ClipFolder(*arguments, **options)
    with pytest.raises(ValueError, match="uniform_frames: got count=0"):
        uniform_frames(4, 0)


@proves(NAME, "errors")
def test_without_pyav_the_extra_is_named(root):
    code = f"import sys; sys.modules['av'] = None\nfrom sslkit.datasets import ClipFolder\nClipFolder({str(root)!r}, 16, 4)[0]"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        'ModuleNotFoundError: ClipFolder: got no PyAV; expected PyAV, which decodes videos. To mend: pip install "sslkit[video]"'
        in run.stderr
    )
