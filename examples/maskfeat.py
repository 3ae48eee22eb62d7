"""MaskFeat: features of hidden patches are predicted, histograms of oriented gradients first of all (Wei et al. 2022, fig. 1).

python examples/maskfeat.py                                    generated pictures, HOG
python examples/maskfeat.py --target pixels --out runs/pixels  the control of the paper's table 2
python examples/maskfeat.py --beside runs/pixels               shows the predictions of both, and the loss of every patch
python examples/supervised.py --data scenes:easy               then, a teacher: its features, or its classes
python examples/maskfeat.py --target features --teacher runs/supervised
python examples/maskfeat.py --target pseudo --teacher runs/supervised
python examples/dvae.py --data scenes:easy --out runs/words    then, visual words
python examples/maskfeat.py --target dvae --dvae runs/words
torchrun --nproc-per-node 2 examples/maskfeat.py               as many processes as you have GPUs

Expect on the generated pictures, --size 96 --patch 8 --steps 1200, about 20 CPU minutes, mean of seeds 0, 1, 2: linear 9.4 -> 17.7 %,
k-NN 9.1 -> 13.5 % with HOG; linear 12.8 %, k-NN 9.4 % with --target pixels (chance 8.3). So short a training is far from what the pictures
hold: k-NN on raw pixels finds 30.5 %.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from common import (
    Pooled,
    Run,
    Teacher,
    Words,
    batch_of,
    centred,
    embed,
    floats,
    knn_score,
    load_data,
    loss_curve,
    processes,
    read_checkpoint,
    run_options,
    score_table,
    scores,
    set_rate,
    share_of,
    wrong,
)
from sslkit.augmentations import Compose, HorizontalFlip, RandomResizedCrop
from sslkit.backbones import ViT
from sslkit.distributed import global_mean
from sslkit.losses import masked_cross_entropy, masked_mse
from sslkit.maskers import BlockwiseMasker, RandomMasker
from sslkit.patches import patchify, unpatchify
from sslkit.plots import contact_sheet, hog_glyphs, save_picture
from sslkit.targets import features, hog, normalized_pixels, pseudo_labels, unnormalized_pixels


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=1800, out="runs/maskfeat")
    parser.set_defaults(data="scenes:easy", size=48, batch=128)
    parser.add_argument("--patch", type=int, default=6, help="side of a patch in pixels; an even number for HOG, which has 2 x 2 cells")
    parser.add_argument("--dim", type=int, default=96, help="width, 32 a head")
    parser.add_argument("--depth", type=int, default=4, help="blocks")
    parser.add_argument("--target", choices=["hog", "pixels", "dvae", "features", "pseudo"], default="hog")
    parser.add_argument("--dvae", type=Path, help="for dvae: folder of a run of dvae.py")
    parser.add_argument("--teacher", type=Path, help="for features and pseudo: folder of a run of supervised.py or simclr.py")
    parser.add_argument("--beside", type=Path, help="another run of this example, whose predictions are shown, too")
    parser.add_argument("--mask", choices=["blockwise", "random"], default="blockwise")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the patches that is hidden; 0.4 in the paper, at 196 patches")
    parser.add_argument("--crop", type=float, default=0.5, help="smallest share of the picture that is shown")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="--no-flip for writing")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    return parser.parse_args(arguments)


class MaskFeat(nn.Module):
    """Hidden patches become a token [M]; a linear head predicts from it what was there."""

    def __init__(self, encoder, values):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, values)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.dim), std=0.02))

    def forward(self, images, mask):
        tokens = self.encoder(images, replace=mask, mask_token=self.token)
        return self.head(mask.hidden(tokens.patches))  # [batch, hidden, values]


class Target(nn.Module):
    """Pictures in [0, 1] -> what stands at the hidden patches; and how far a prediction is from it."""

    def __init__(self, kind, patch, teacher, channels):
        super().__init__()
        self.kind, self.patch, self.teacher, self.classes = kind, patch, teacher, kind in ("dvae", "pseudo")
        self.values = {"hog": 36 * channels, "pixels": channels * patch**2}.get(kind) or teacher.values

    def forward(self, images, mask):
        if self.kind == "hog":  # raw levels: normalised ones put rounding into flat cells
            return hog(images, cell=self.patch // 2, patch=self.patch, ids=mask.ids_hidden)
        if self.kind == "pixels":
            return normalized_pixels(images, self.patch, ids=mask.ids_hidden)
        if self.kind == "dvae":
            return self.teacher(images, mask.grid, mask.ids_hidden)
        return (pseudo_labels if self.kind == "pseudo" else features)(self.teacher, images, grid=mask.grid, ids=mask.ids_hidden)

    def comparable(self, prediction):
        return functional.normalize(prediction.float(), dim=-1) if self.kind == "features" else prediction

    def loss(self, prediction, images, mask):
        target = self(images, mask)
        return masked_cross_entropy(prediction, target) if self.classes else masked_mse(self.comparable(prediction), target)

    def errors(self, prediction, images, mask):
        """[batch, hidden], for the eye: the loss is their mean."""
        target = self(images, mask)
        if self.classes:
            return functional.cross_entropy(prediction.mT, target, reduction="none")
        return (prediction - target).square().mean(dim=-1)

    def painted(self, prediction, images, mask):
        """Name -> pictures [batch, channels, h, w]: the prediction, the truth where the network saw it."""
        rows = mask.ids_hidden[..., None].expand_as(prediction)
        if self.kind == "hog":
            truth = hog(images, cell=self.patch // 2, patch=self.patch)
            side = max(1, 144 // images.shape[-1]) * self.patch // 2
            both = {"HOG": truth.scatter(1, rows, prediction), "HOG, true": truth}
            return {name: hog_glyphs(x, mask.grid, channels=images.shape[1], side=side) for name, x in both.items()}
        if self.kind == "pixels":
            full = normalized_pixels(images, self.patch).scatter(1, rows, prediction)
            return {"pixels": unpatchify(unnormalized_pixels(full, images, self.patch), mask.grid, self.patch).clamp(0, 1)}
        if self.kind == "dvae":
            words = self.teacher(images, mask.grid).flatten(1).scatter(1, mask.ids_hidden, prediction.argmax(dim=-1))
            return {"words": self.teacher.paint(words.unflatten(1, mask.grid), images.shape[-2:])}
        return {}


def build(options, data, device):
    """Model, target and masker."""
    if options.target == "hog" and options.patch % 2:
        raise wrong("--patch", given=f"{options.patch} with --target hog", expected="an even number, for 2 x 2 cells", mend="pass 6 or 8")
    torch.manual_seed(options.seed)
    channels = data.train.shape[1]
    encoder = ViT(options.size, options.patch, options.dim, options.depth, options.dim // 32, channels=channels)
    teacher = Teacher(options.teacher, channels, options.target == "pseudo") if options.target in ("features", "pseudo") else None
    teacher = Words(options.dvae, channels) if options.target == "dvae" else teacher
    target = Target(options.target, options.patch, teacher, channels)
    hidden = round(options.ratio * math.prod(encoder.base))
    blocks = BlockwiseMasker(count=hidden, min_patches=max(1, hidden // 5))
    return (
        MaskFeat(encoder, target.values).to(device),
        target.to(device),
        blocks if options.mask == "blockwise" else RandomMasker(count=hidden),
    )


def train(options, run, data, model, target, masker, group, device):
    """The algorithm; `model` is trained in place."""
    view = Compose(RandomResizedCrop(options.size, scale=(options.crop, 1.0)), *([HorizontalFlip()] if options.flip else []))
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
            images = view(floats(data.train[indices]).to(device), **draw)
            mask = masker.for_indices(grid=model.encoder.base, **draw)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                prediction = network(centred(images), mask)
            loss = global_mean(target.loss(prediction, images, mask) * len(indices), len(batch), group)  # all hide the same number
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        run.write(step + 1, loss=total)
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{total:.3f}", knn=f"{knn_score(Pooled(model.encoder, 'mean'), data, 500, device):.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        model, target, masker = build(options, data, device)
        encoder = Pooled(model.encoder, "mean")
        controls = scores(encoder, data, embed(encoder, data.test, device), device)
        train(options, run, data, model, target, masker, group, device)
        if rank == 0:
            report(options, run, data, model, target, masker, device, controls)


def report(options, run, data, model, target, masker, device, controls):
    """Scores of the frozen features beside two controls, the random network and the raw pixels; and what is predicted."""
    encoder = Pooled(model.encoder, "mean")
    found, pixels = scores(encoder, data, embed(encoder, data.test, device), device), knn_score(nn.Flatten(), data)
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()})
    if found:
        print(score_table(data, pixels, {"random network": controls, f"after {run.steps} steps": found}))
    print(save_picture(predictions(options, data, model, target, masker, device), options.out / "prediction.png"))
    print(loss_curve(options.out))


def predictions(options, data, model, target, masker, device):
    """Six pictures: what the network sees, what it predicts of the rest and how far off each patch is; this run's, and another's."""
    shown = [(model, target)]
    if options.beside:
        other = read_checkpoint(options.beside / "checkpoint.pt")
        settings = argparse.Namespace(**{**vars(options), **other["settings"]})
        settings.teacher, settings.dvae = (Path(path) if path else None for path in (settings.teacher, settings.dvae))
        shown.append(build(settings, data, device)[:2])
        shown[-1][0].load_state_dict(other["parts"]["model"])
    images = floats(telling(data.test[:500])).to(device)
    mask = masker.for_indices(torch.arange(len(images)), model.encoder.base, seed=options.seed, device=device)
    seen = patchify(images, options.patch).masked_fill(mask.mask[..., None], 0.5)
    columns = {"visible": unpatchify(seen, mask.grid, options.patch)}
    for network, goal in shown:
        with torch.no_grad():
            predicted = goal.comparable(network(centred(images), mask).float())
        columns |= goal.painted(predicted, images, mask)
        errors = torch.zeros(mask.mask.shape, device=device).scatter(1, mask.ids_hidden, goal.errors(predicted, images, mask))
        spread = (errors / errors.max())[..., None].expand(-1, -1, options.patch**2)
        columns[f"loss, {goal.kind}"] = unpatchify(spread, mask.grid, options.patch)
    columns["original"] = images
    side = max(column.shape[-1] for column in columns.values())
    cells = [functional.interpolate(x.expand(-1, 3, -1, -1).cpu(), size=(side, side)) for x in columns.values()]
    return contact_sheet(torch.stack(cells, dim=1).flatten(0, 1), columns=len(cells), titles=[*columns] * len(images))


def telling(pictures):
    """Three pictures of the strongest edges, where pixels come out blurred, and three of strong colours with few, which may be missed."""
    images = floats(pictures)
    edges, colours = images.diff(dim=-1).abs().mean(dim=(1, 2, 3)), images.mean(dim=(2, 3)).std(dim=1)
    return pictures[torch.cat([edges.argsort(descending=True)[:3], (colours / edges).argsort(descending=True)[:3]])]


if __name__ == "__main__":
    main()
