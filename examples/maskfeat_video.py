"""MaskFeat on clips: cubes of space and time are hidden, histograms of oriented gradients are predicted (Wei et al. 2022, fig. 2).

python examples/maskfeat_video.py                                     generated clips, a ViT over tubelets
python examples/maskfeat_video.py --mask tube                         or frame: the paper's table 6
python examples/maskfeat_video.py --target pixels                     the paper's table 1
python examples/maskfeat_video.py --target dvae --dvae runs/words     visual words of a run of dvae.py --data scenes:easy
python examples/maskfeat_video.py --backbone mvit --patch 16          the paper's network, small
python examples/maskfeat_video.py --data folder:VIDEOS --size 112     your own files, by PyAV: pip install "sslkit[video]"
torchrun --nproc-per-node 2 examples/maskfeat_video.py                as many processes as you have GPUs

Expect on the generated clips, --data scenes:easy --steps 700, 4 to 5 CPU minutes, mean of seeds 0, 1, 2, linear: motion 17.1 -> 19.8 %
(chance 16.7), shape 9.4 -> 12.2 % (chance 8.3); motion 27.5 % with features of simclr.py --size 48 --data scenes:easy. So short a training
is far from what the clips hold: k-NN on raw pixels finds 36.5 % of the motions, on these features 17.3 %.
"""

import argparse
import dataclasses
import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from common import (
    Data,
    Pooled,
    Run,
    Teacher,
    Words,
    batch_of,
    centred,
    embed,
    floats,
    knn_score,
    loss_curve,
    processes,
    run_options,
    scores,
    set_rate,
    share_of,
    split_files,
    wrong,
)
from sslkit.augmentations import RandomResizedCrop
from sslkit.backbones import ViT, adapt, maskfeat_mvit
from sslkit.datasets import MOTIONS, ClipFolder, SceneVideos
from sslkit.distributed import global_mean
from sslkit.losses import masked_cross_entropy, masked_mse
from sslkit.maskers import BlockwiseMasker, CubeMasker, FrameMasker, TubeMasker
from sslkit.plots import contact_sheet, save_picture
from sslkit.targets import features, hog, normalized_pixels

TUBELET = 2  # frames of a token, of which the first is predicted
MASKERS = {"cube": CubeMasker, "tube": partial(TubeMasker, spatial=BlockwiseMasker(min_patches=4)), "frame": FrameMasker}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=1500, out="runs/maskfeat_video")
    parser.set_defaults(size=48, batch=32)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--frame-stride", type=int, default=4, help="of clips from files")
    parser.add_argument("--backbone", choices=["vit", "mvit"], default="vit")
    parser.add_argument("--patch", type=int, default=8, help="side of a token in pixels; 16 for mvit")
    parser.add_argument("--dim", type=int, default=96, help="width of the ViT, 32 a head; a quarter of it is the width of MViT's stem")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the ViT")
    parser.add_argument("--target", choices=["hog", "pixels", "dvae", "features"], default="hog")
    parser.add_argument("--dvae", type=Path, help="for dvae: folder of a run of dvae.py")
    parser.add_argument("--teacher", type=Path, help="for features: folder of a run of supervised.py or simclr.py")
    parser.add_argument("--mask", choices=["cube", "tube", "frame"], default="cube")
    parser.add_argument("--ratio", type=float, default=0.4, help="share of the tokens that is hidden")
    parser.add_argument("--crop", type=float, default=0.5, help="smallest share of the picture that is shown, the same for all frames")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    return parser.parse_args(arguments)


def load_clips(options):
    """Data of clips [n, 3, time, size, size] uint8 labelled by their motion, and the labels of their shapes (probe, test) or None.

    All are kept in memory, of files the middle of each; a `DataLoader` of `ClipFolder` draws others every epoch.
    """
    kind, _, rest = options.data.partition(":")
    if kind == "scenes" and rest in ("", "easy", "tiny"):
        sets = [SceneVideos(split, options.size, options.frames, preset=rest or "default") for split in ("train", "probe", "test")]
        clips, motion, shape = [], [], []
        for videos in sets:
            parts = [videos.batch(part) for part in torch.arange(len(videos)).split(500)]
            clips.append(torch.cat([(part.clips * 255).round().to(torch.uint8) for part in parts]))
            motion.append(torch.cat([part.motion for part in parts]))
            shape.append(torch.cat([part.labels for part in parts]))
        return Data(*clips, *motion), dataclasses.replace(Data(*clips), probe_labels=shape[1], test_labels=shape[2])
    if kind != "folder":
        raise wrong("--data", given=repr(options.data), expected="scenes, scenes:easy or folder:PATH", mend="pass one of these")
    folder = ClipFolder(rest, options.size, options.frames, frame_stride=options.frame_stride)
    batch = folder.collate([folder[index] for index in range(len(folder))])
    for path, reason in batch.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(batch.clips) < 2:
        raise wrong("--data", given=f"{len(batch.clips)} readable videos, {len(batch.skipped)} skipped", expected="at least 2",
                    mend="pass videos of enough frames, or smaller --frames and --frame-stride")  # fmt: skip
    paths = [folder.paths[index] for index in batch.indices.tolist()]
    train, test = split_files(batch.clips, batch.labels if folder.classes else None, paths, "videos")
    return Data(train[0], train[0], test[0], train[1], train[1], test[1]), None


class MaskFeat(nn.Module):
    """Hidden tokens of the stem become a token [M]; a linear head predicts from what comes out at their places."""

    def __init__(self, encoder, values):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, values)
        width = getattr(encoder, "embed_dim", encoder.dim)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))

    def forward(self, clips, mask):
        tokens = self.encoder(clips, replace=mask, mask_token=self.token)
        return self.head(mask.hidden(tokens.patches))  # [batch, hidden, values]


class Target(nn.Module):
    """Clips in [0, 1] -> what stands in the first frame of the hidden tokens; and how far a prediction is from it."""

    def __init__(self, kind, patch, teacher):
        super().__init__()
        self.kind, self.patch, self.teacher = kind, patch, teacher
        self.values = {"hog": 108, "pixels": 3 * patch**2}.get(kind) or teacher.values

    def forward(self, clips, mask):
        if self.kind == "hog":
            return hog(clips, cell=self.patch // 2, patch=self.patch, tubelet=TUBELET, ids=mask.ids_hidden)
        if self.kind == "pixels":
            return normalized_pixels(clips, self.patch, frame_stride=TUBELET, ids=mask.ids_hidden)
        if self.kind == "dvae":
            frames = clips[:, :, ::TUBELET].transpose(1, 2)  # [batch, time, 3, height, width]
            return self.teacher(frames.flatten(0, 1), mask.grid[1:]).view(len(clips), -1).gather(1, mask.ids_hidden)
        return features(self.each_frame, clips[:, :, ::TUBELET], grid=mask.grid, ids=mask.ids_hidden)

    def each_frame(self, clips):
        maps = self.teacher(clips.transpose(1, 2).flatten(0, 1))  # [batch * time, dim, h, w]
        return maps.unflatten(0, (len(clips), -1)).transpose(1, 2)

    def loss(self, prediction, clips, mask):
        if self.kind == "dvae":
            return masked_cross_entropy(prediction, self(clips, mask))
        return masked_mse(functional.normalize(prediction.float(), dim=-1) if self.kind == "features" else prediction, self(clips, mask))


def build(options, device):
    """Model, target and masker."""
    if options.patch % 2 or (options.backbone == "mvit" and options.patch != 16):
        raise wrong("--patch", given=f"{options.patch} with --backbone {options.backbone}", expected="16 for mvit, else an even number",
                    mend="pass --patch 16")  # fmt: skip
    if options.mask == "frame" and not round(options.ratio * options.frames / TUBELET):
        raise wrong("--ratio", given=f"{options.ratio} of {options.frames // TUBELET} time steps", expected="at least one of them",
                    mend="pass --ratio 0.4")  # fmt: skip
    torch.manual_seed(options.seed)
    if options.backbone == "mvit":
        encoder = adapt(maskfeat_mvit(options.size, options.frames, dim=options.dim // 4, stages=(1, 1, 2, 1)))
    else:
        encoder = ViT(options.size, options.patch, options.dim, options.depth, options.dim // 32, tubelet=TUBELET, frames=options.frames)
    teacher = Teacher(options.teacher, 3, False) if options.target == "features" else None
    target = Target(options.target, options.patch, Words(options.dvae, 3) if options.target == "dvae" else teacher)
    masker = MASKERS[options.mask](options.ratio)
    return MaskFeat(encoder, target.values).to(device), target.to(device), masker


def crop(options, clips, **draw):
    """One box a clip: its frames are cut as channels of one picture."""
    batch, channels, time, height, width = clips.shape
    cut = RandomResizedCrop(options.size, scale=(options.crop, 1.0))(clips.view(batch, channels * time, height, width), **draw)
    return cut.view(batch, channels, time, options.size, options.size)


def train(options, run, data, model, target, masker, group, device):
    """The algorithm; `model` is trained in place."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=options.weight_decay, betas=(0.9, 0.95))
    network = model if group is None else DistributedDataParallel(model, process_group=group)
    network = torch.compile(network) if options.compile else network
    for step in run.progress({"model": model, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        total = 0.0
        for part in batch.tensor_split(options.accumulate):
            indices = share_of(part, group)
            draw = {"indices": indices.to(device), "seed": options.seed, "epoch": epoch}
            clips = crop(options, floats(data.train[indices]).to(device), **draw)
            mask = masker.for_indices(grid=model.encoder.base, **draw)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                prediction = network(centred(clips), mask)
            loss = global_mean(target.loss(prediction, clips, mask) * len(indices), len(batch), group)  # all hide the same number
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        run.write(step + 1, loss=total)
        if run.rank == 0:
            run.bar.set_postfix(loss=f"{total:.3f}")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data, shapes = load_clips(options)
        model, target, masker = build(options, device)
        controls = measure(model, data, shapes, device)
        train(options, run, data, model, target, masker, group, device)
        if rank == 0:
            report(options, run, data, shapes, model, device, controls)


def measure(model, data, shapes, device):
    """Scores of the mean of the tokens: for the motion, and for the shape where it is known."""
    encoder = Pooled(model.encoder, "mean")
    test = embed(encoder, data.test, device)
    found = {f"motion_{name}": value for name, value in scores(encoder, data, test, device).items()}
    return found | ({} if shapes is None else {f"shape_{name}": value for name, value in scores(encoder, shapes, test, device).items()})


def report(options, run, data, shapes, model, device, controls):
    """Scores of the frozen features beside two controls, the random network and the raw pixels; and clips under all masks."""
    found = measure(model, data, shapes, device)
    pixels = {"motion": knn_score(nn.Flatten(), data)} | ({} if shapes is None else {"shape": knn_score(nn.Flatten(), shapes)})
    run.finish(
        **{f"{k}_knn_pixels": v for k, v in pixels.items()},
        **{f"{k}_before": v for k, v in controls.items()},
        **{f"{k}_after": v for k, v in found.items()},
    )
    for name in found:
        print(f"{name:18} {controls[name]:5.1f} -> {found[name]:5.1f} %")
    if found:
        print(f"k-NN of raw pixels: {', '.join(f'{name} {value:.1f}' for name, value in pixels.items())} %")
    if shapes is not None:
        print(f"chance: motion {100 / len(MOTIONS):.1f}, shape {100 / (int(shapes.test_labels.max()) + 1):.1f}")
    print(save_picture(strips(data.test[:2], model.encoder.base, options), options.out / "masks.png"))
    print(loss_curve(options.out))


def strips(clips, grid, options):
    """Each clip, its frames side by side, as it is and as a network sees it under cubes, tubes and frames."""
    batch, _, time, height, width = clips.shape
    rows = {"clip": torch.zeros(batch, *clips.shape[2:], dtype=torch.bool)}
    for name, masker in MASKERS.items():
        hidden = masker(options.ratio).for_indices(torch.arange(batch), grid, seed=options.seed).mask.view(batch, 1, *grid)
        rows[name] = functional.interpolate(hidden.float(), size=(time, height, width))[:, 0].bool()  # [batch, time, height, width]
    seen = torch.stack([clips.masked_fill(hidden[:, None], 127) for hidden in rows.values()], dim=1)
    frames = seen.transpose(2, 3).flatten(0, 2)  # [batch * rows * time, 3, height, width]
    factor = math.ceil(64 / width)
    titles = [name if t == 0 else "" for _ in range(batch) for name in rows for t in range(time)]
    return contact_sheet(frames.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3), columns=time, titles=titles)


if __name__ == "__main__":
    main()
