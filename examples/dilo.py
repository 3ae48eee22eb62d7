"""DiLo: the object is cut out and pasted on other backgrounds, so that views agree on nothing else (Zhao et al. 2021, fig. 4).

python examples/dilo.py                                   SimCLR on pictures whose background tells the class; masks as they are known
python examples/dilo.py --ratio 0                         the control: the base method alone; rows of the paper's table 2: also
                                                          --saliency gs|mc|rbd|cam|gradient, --ratio 0.3, --background
                                                          grayscale|texture|image, --blend none|gaussian|mix
python examples/dilo.py --base moco2 --saliency rbd       rows of table 3: --base simclr|moco1|moco2|instdist
python examples/dilo.py --saliency cam --teacher runs/supervised       a trained ConvNet of supervised.py says where the object is
torchrun --nproc-per-node 2 examples/dilo.py              as many processes as you have GPUs
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
    Teacher,
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
    wrong,
)
from sslkit.augmentations import CopyPaste, ImageBackgrounds, simclr
from sslkit.backbones import convnet_small
from sslkit.datasets import Scenes
from sslkit.distributed import gather, global_mean, row_count
from sslkit.evaluation import f_beta, linear_probe, mean_absolute_error
from sslkit.losses import info_nce, nce_loss, nce_normalizer, nt_xent
from sslkit.modules import MemoryBank, MLPProjector, MomentumEncoder, SupportSet
from sslkit.plots import contact_sheet, save_picture
from sslkit.saliency import (
    class_activation_map,
    geodesic_saliency,
    gradient_saliency,
    markov_chain_saliency,
    robust_background_saliency,
    superpixels,
)

ESTIMATORS = {"gs": geodesic_saliency, "mc": markov_chain_saliency, "rbd": robust_background_saliency}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=300, out="runs/dilo")
    parser.add_argument("--base", choices=["simclr", "moco1", "moco2", "instdist"], default="simclr")
    parser.add_argument("--saliency", choices=["truth", *ESTIMATORS, "cam", "gradient"], default="truth", help="truth: of the generator")
    parser.add_argument("--teacher", type=Path, help="for cam and gradient: folder of a run of supervised.py")
    parser.add_argument("--background", choices=["texture", "image", "grayscale"], default="texture",
                        help="texture: surfaces without an object; image: the training pictures with the least saliency")  # fmt: skip
    parser.add_argument("--blend", choices=["none", "gaussian", "mix"], default="mix")
    parser.add_argument("--ratio", type=float, default=0.5, help="of the views that are pasted; 0: the base method alone")
    parser.add_argument("--correlation", type=float, default=0.8, help="of the background with the class, in training, probe and test")
    parser.add_argument("--queue", type=int, default=2048, help="moco: rows")
    parser.add_argument("--momentum", type=float, default=0.97, help="moco: of the keys' encoder")
    parser.add_argument("--negatives", type=int, default=1024, help="instdist: rows drawn from the bank")
    parser.add_argument("--crop", type=float, default=0.4, help="smallest share of the picture that a view shows")
    parser.add_argument("--hue", type=float, default=0.1, help="largest hue shift, in turns")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    return parser.parse_args(arguments)


def load(options):
    """Data with masks: (Data, masks of the training pictures uint8, backgrounds of the test pictures, the same test pictures elsewhere)."""
    kind, _, preset = options.data.partition(":")
    if kind != "scenes" or preset not in ("", "easy", "tiny"):
        raise wrong("--data", given=repr(options.data), expected="scenes, scenes:easy or scenes:tiny, whose masks are known",
                    mend="for your own pictures call sslkit.saliency and CopyPaste in your loop")  # fmt: skip
    shared = {"size": options.size, "preset": preset or "default", "background_correlation": options.correlation}
    sets = [Scenes(split, **shared) for split in ("train", "probe", "test")]
    train, probe, test = (part.batch(torch.arange(len(part))) for part in sets)
    swapped = Scenes("test", swapped=True, **shared).batch(torch.arange(len(test))).images
    data = Data(train.images, probe.images, test.images, train.labels, probe.labels, test.labels)
    families = dataclasses.replace(data, probe_labels=probe.family, test_labels=test.family)
    return data, train.masks[:, None], sets[0], families, swapped


def maps_of(options, images, truth):
    """Saliency of pictures, uint8 [n, 1, size, size], made once."""
    if options.saliency == "truth":
        return (255 * truth).round().to(torch.uint8)
    if options.saliency in ("cam", "gradient"):
        teacher = Teacher(options.teacher, images.shape[1], classify=True)
    parts = []
    for part in images.split(64):
        if options.saliency in ESTIMATORS:
            found = ESTIMATORS[options.saliency](part, superpixels=superpixels(part, count=100))
        elif options.saliency == "gradient":
            found = gradient_saliency(teacher.logits, part)
        else:
            classes = teacher.logits(part).argmax(dim=1)
            found = class_activation_map(teacher.network.maps(part), teacher.weight, classes, size=tuple(part.shape[-2:]))
        parts.append((255 * found).round().to(torch.uint8))
    return torch.cat(parts)


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


class Base(nn.Module):
    """A contrastive method: what it holds, and the loss of two views of pictures."""

    def __init__(self, options, encoder, pictures):
        super().__init__()
        self.options, generator = options, torch.Generator().manual_seed(options.seed)
        layers = 1 if options.base in ("moco1", "instdist") else 2
        self.network = nn.Sequential(encoder, MLPProjector(encoder.dim, 256, 64, layers=layers))
        moco = options.base.startswith("moco")
        self.teacher = MomentumEncoder(self.network, buffers="own") if moco else None
        self.queue = SupportSet(options.queue, 64, generator=generator) if moco else None
        self.bank = MemoryBank(pictures, 64, generator=generator) if options.base == "instdist" else None
        self.register_buffer("normalizer", torch.zeros(()))

    def loss(self, network, x1, x2, draw, group):
        """`network` is ours, or what wraps it."""
        if self.options.base == "simclr":
            self.seen = network(torch.cat([x1, x2]))
            return nt_xent(*self.seen.chunk(2), temperature=0.2, group=group)
        z = network(x1)
        if self.teacher is not None:
            self.seen = self.teacher(x2)
            return info_nce(z, self.seen, negatives=self.queue.rows, temperature=0.07 if self.options.base == "moco1" else 0.2, group=group)
        self.seen, size = z, len(self.bank.rows)
        candidates = self.bank.candidates(draw["indices"], self.options.negatives, seed=self.options.seed, epoch=draw["epoch"])
        similarity = self.bank(z, candidates)
        if draw["step"] == 0:
            self.normalizer.copy_(nce_normalizer(gather(similarity, group).rows, size))
        loss = nce_loss(similarity, self.normalizer, size) * len(z)
        return global_mean(loss, row_count(len(z), group), group)

    def update(self, draw, group):
        """Once a step, after the optimiser's."""
        if self.teacher is not None:
            self.queue.enqueue(self.seen, group=group)
            self.teacher.update(self.options.momentum)
        if self.bank is not None:
            self.bank.update(draw["indices"], self.seen, group)


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
    optimizer = torch.optim.AdamW(base.network.parameters(), weight_decay=options.weight_decay)
    network = base.network if group is None else DistributedDataParallel(base.network, process_group=group)
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
            run.bar.set_postfix(loss=f"{loss.item():.3f}", knn=f"{knn_score(base.network[0], data, 500, device):.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data, truth, scenes, families, swapped = load(options)
        maps = maps_of(options, data.train, truth)
        paste = paste_of(options, scenes, data.train, maps)
        torch.manual_seed(options.seed)
        base = Base(options, convnet_small(3), len(data.train)).to(device)
        measure = {"data": data, "families": families, "swapped": swapped, "device": device}
        controls = measured(base.network[0], **measure)
        train(options, run, data, maps, base, paste, group, device)
        if rank == 0:
            report(options, run, base.network[0], controls, maps, truth, paste, measure)


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
    columns = [shown, (seen / 255).expand(-1, 3, -1, -1)]
    columns += [always(shown, seen, indices=torch.arange(8), seed=options.seed, epoch=epoch) for epoch in range(3)]
    sheet = torch.stack(columns, dim=1).flatten(0, 1).repeat_interleave(3, 2).repeat_interleave(3, 3)
    titles = ["picture", options.saliency, *[f"on {options.background}"] * 3] * 8
    print(save_picture(contact_sheet(sheet, columns=len(columns), titles=titles), options.out / "pasted.png"))
    print(loss_curve(options.out))


if __name__ == "__main__":
    main()
