"""DiLo: the object is cut out and pasted on other backgrounds, so that views agree on nothing else (Zhao et al. 2021, fig. 4).

python examples/dilo.py                                   SimCLR on pictures whose background tells the class; masks as they are known
python examples/dilo.py --ratio 0                         the control: the base method alone; rows of the paper's table 2: also
                                                          --saliency gs|mc|rbd, --ratio 0.3, --background grayscale|texture|image,
                                                          --blend none|gaussian|mix
python examples/dilo.py --base moco2 --saliency rbd       rows of table 3: --base simclr|moco1|moco2|instdist|cmc
python examples/dilo.py --saliency basnet --network runs/saliency      a network of saliency.py says where the object is
python examples/dilo.py --saliency cam --teacher runs/supervised       a trained ConvNet of supervised.py does; or --saliency gradient
python examples/dilo.py --saliency maps.npy               maps of your own, uint8 [pictures, height, width]; or MODULE:FUNCTION of images
torchrun --nproc-per-node 2 examples/dilo.py              as many processes as you have GPUs

Expect with --data scenes:easy, 50 CPU seconds, mean of seeds 0, 1, 2, linear: before other backgrounds than those of the class 46.9 %,
47.6 % with masks by MC, 36.3 % with --ratio 0, 16.0 % untrained; before those of the class 53.6, 55.0, 62.0 and 19.9 %.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Data,
    Run,
    batch_of,
    embed,
    floats,
    knn_score,
    loss_curve,
    processes,
    run_options,
    score_table,
    scores,
    set_rate,
    share_of,
)
from saliency import maps_of, save_sheet, scenes_of
from siamese import Colours, State, Student
from sslkit.augmentations import CopyPaste, ImageBackgrounds, simclr
from sslkit.backbones import convnet_small
from sslkit.evaluation import f_beta, linear_probe, mean_absolute_error
from sslkit.losses import info_nce, nt_xent
from sslkit.modules import MLPProjector, MomentumEncoder, SupportSet

BANKS = ("instdist", "cmc")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=300, out="runs/dilo", accumulate=False)
    parser.add_argument("--base", choices=["simclr", "moco1", "moco2", *BANKS], default="simclr")
    parser.add_argument("--saliency", default="truth",
                        help="truth (of the generator) | gs | mc | rbd | basnet | cam | gradient | FILE.npy | MODULE:FUNCTION")  # fmt: skip
    parser.add_argument("--network", type=Path, help="for basnet: folder of a run of saliency.py")
    parser.add_argument("--teacher", type=Path, help="for cam and gradient: folder of a run of supervised.py")
    parser.add_argument("--background", choices=["texture", "image", "grayscale"], default="texture",
                        help="texture: surfaces without an object; image: the training pictures with the least saliency")  # fmt: skip
    parser.add_argument("--blend", choices=["none", "gaussian", "mix"], default="mix")
    parser.add_argument("--ratio", type=float, default=0.5, help="of the views that are pasted; 0: the base method alone")
    parser.add_argument("--correlation", type=float, default=0.8, help="of the background with the class, in training, probe and test")
    parser.add_argument("--queue", type=int, default=2048, help="moco: rows")
    parser.add_argument("--momentum", type=float, default=0.97, help="moco: of the keys' encoder")
    parser.add_argument("--negatives", type=int, default=1024, help="instdist and cmc: rows drawn from a bank")
    parser.add_argument("--crop", type=float, default=0.4, help="smallest share of the picture that a view shows")
    parser.add_argument("--hue", type=float, default=0.1, help="largest hue shift, in turns")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    return parser.parse_args(arguments)


def load(options):
    """Data with masks: (Data, masks of the training pictures uint8, backgrounds of the test pictures, the same test pictures elsewhere)."""
    sets = [scenes_of(options, split, background_correlation=options.correlation) for split in ("train", "probe", "test")]
    train, probe, test = (part.batch(torch.arange(len(part))) for part in sets)
    swapped = dataclasses.replace(sets[2], swapped=True).batch(torch.arange(len(test))).images
    data = Data(train.images, probe.images, test.images, train.labels, probe.labels, test.labels)
    families = dataclasses.replace(data, probe_labels=probe.family, test_labels=test.family)
    return data, train.masks[:, None], sets[0], families, swapped


def paste_of(options, scenes, images, maps):
    """The augmentation; backgrounds that do not know the class."""
    if options.background == "grayscale":
        backgrounds = "grayscale"
    elif options.background == "texture":
        backgrounds = ImageBackgrounds(scenes.backgrounds(torch.arange(min(1000, len(scenes)))))
    else:
        share = maps.float().mean(dim=(1, 2, 3))
        backgrounds = ImageBackgrounds(images[share.argsort()[: max(1, len(images) // 10)]])
    return CopyPaste(backgrounds, blend=options.blend, probability=options.ratio, sigma=5 * options.size / 224)


class Contrast(nn.Module):
    """SimCLR, MoCo v1 and v2: `student` is trained, the rest is what the method remembers."""

    def __init__(self, options, backbone):
        super().__init__()
        self.options, self.backbone = options, backbone
        self.student = nn.Sequential(backbone, MLPProjector(backbone.dim, 256, 64, layers=1 if options.base == "moco1" else 2))
        moco = options.base != "simclr"
        self.teacher = MomentumEncoder(self.student, buffers="own") if moco else None
        self.queue = SupportSet(options.queue, 64, generator=torch.Generator().manual_seed(options.seed)) if moco else None

    def loss(self, network, x1, x2, draw, group):
        """Of two views of pictures; `network` is the student, or what wraps it."""
        if self.teacher is None:
            return nt_xent(*network(torch.cat([x1, x2])).chunk(2), temperature=0.2, group=group)
        z, self.seen = network(x1), self.teacher(x2)
        return info_nce(z, self.seen, negatives=self.queue.rows, temperature=0.07 if self.options.base == "moco1" else 0.2, group=group)

    def update(self, draw, group):
        """Once a step, after the optimiser's."""
        if self.teacher is not None:
            self.queue.enqueue(self.seen, group=group)
            self.teacher.update(self.options.momentum)


class Banked(nn.Module):
    """InstDist and CMC, of siamese.py: one view of a picture, or its two halves of colour, against rows of a memory bank."""

    def __init__(self, options, backbone, pictures):
        super().__init__()
        shared = {"method": options.base, "negatives": options.negatives, "seed": options.seed}
        own = argparse.Namespace(**shared, hidden=256, dim=64, prototypes=0, queue=0)
        self.backbone, self.student = backbone, Student(own, backbone)
        self.state = State(own, self.student, pictures)

    def loss(self, network, x1, x2, draw, group):
        self.seen, out = network([x1])
        return self.state.loss(self.student, [x1], self.seen, out, draw, group)

    def update(self, draw, group):
        self.state.update(self.seen, draw, 0.0, group)


def base_of(options, pictures):
    """The method that copy-paste is added to."""
    torch.manual_seed(options.seed)
    backbone = Colours() if options.base == "cmc" else convnet_small(3)
    return Banked(options, backbone, pictures) if options.base in BANKS else Contrast(options, backbone)


def two_views(options, paste, view, images, maps, draw):
    """Each view pastes for itself, the whole picture, before crops and colours."""
    views = []
    for v in (0, 1):
        own = {"indices": draw["indices"], "seed": options.seed, "epoch": draw["epoch"], "device": images.device}
        pasted = paste.apply(images, maps, paste.sample(len(images), **own, offset=(1 << 16) * (v + 1)))
        parameters = view.sample(len(images), tuple(images.shape[2:]), **own, offset=v * view.slots)
        views.append(view.apply(pasted, parameters).contiguous(memory_format=torch.channels_last))
    return views


def train(options, run, data, maps, base, paste, group, device):
    """The algorithm; `base` is trained in place."""
    view = simclr(options.size, scale=(options.crop, 1.0), jitter=(0.4, 0.4, 0.4, options.hue), blur=0).views[0]
    optimizer = torch.optim.AdamW(base.student.parameters(), weight_decay=options.weight_decay)
    network = base.student if group is None else DistributedDataParallel(base.student, process_group=group)
    network = torch.compile(network) if options.compile else network
    for step in run.progress({"base": base, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        indices = share_of(batch, group)
        draw = {"indices": indices.to(device), "epoch": epoch, "step": step}
        x1, x2 = two_views(options, paste, view, data.train[indices].to(device), maps[indices].to(device), draw)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = base.loss(network, x1, x2, draw, group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        base.update(draw, group)
        run.write(step + 1, loss=loss.item())
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{loss.item():.3f}", knn=f"{knn_score(base.backbone, data, 500, device):.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data, truth, scenes, families, swapped = load(options)
        maps = maps_of(options.saliency, data.train, truth, options.network, options.teacher)
        paste = paste_of(options, scenes, data.train, maps)
        base = base_of(options, data.train).to(device)
        measure = {"data": data, "families": families, "swapped": swapped, "device": device}
        controls = measured(base.backbone, **measure)
        train(options, run, data, maps, base, paste, group, device)
        if rank == 0:
            report(options, run, base.backbone, controls, maps, truth, paste, measure)


def measured(encoder, data, families, swapped, device):
    """Scores of the class, on the same objects before other backgrounds, and of the background's family."""
    test = embed(encoder, data.test, device)
    found, probe = scores(encoder, data, test, device), embed(encoder, data.probe, device)
    elsewhere = linear_probe(probe, data.probe_labels, embed(encoder, swapped, device), data.test_labels).top1
    family = linear_probe(probe, families.probe_labels, test, families.test_labels).top1
    return found | {"swapped": elsewhere, "family": family}


def report(options, run, encoder, controls, maps, truth, paste, measure):
    """Scores beside the random network's, how good the maps are, and eight pictures on other backgrounds."""
    data, found = measure["data"], measured(encoder, **measure)
    own = {"f_beta": f_beta(maps[:1000] / 255, truth[:1000]).maximum, "mae": mean_absolute_error(maps[:1000] / 255, truth[:1000])}
    run.finish(**{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()}, **own)
    print(score_table(data, knn_score(nn.Flatten(), data), {"random network": controls, f"after {run.steps} steps": found}))
    for name in ("swapped", "family"):
        words = {"swapped": "linear, other backgrounds", "family": "the background's family, linear, chance 12.5"}[name]
        print(f"{words}: {controls[name]:.1f} -> {found[name]:.1f} %")
    print(f"maps of {options.saliency}: max F {own['f_beta']:.3f}, mean absolute error {own['mae']:.3f}")
    always = dataclasses.replace(paste, probability=1.0)
    shown, seen = floats(data.train[:8]), maps[:8]
    columns = {"picture": shown, options.saliency[:16]: seen / 255}
    columns |= {f"{options.background} {n}": always(shown, seen, indices=torch.arange(8), seed=options.seed, epoch=n) for n in range(3)}
    print(save_sheet(columns, options.out / "pasted.png"))
    print(loss_curve(options.out))


if __name__ == "__main__":
    main()
