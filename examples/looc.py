"""LooC: one embedding space for each augmentation, which keeps what it did, and one that ignores all (Xiao et al. 2021, fig. 2).

python examples/looc.py                                               rotation: a head that keeps it, and one that ignores it
python examples/looc.py --hue 0.5 --augmentations color,rotation      a head for each; also color, texture: rows of the second table
python examples/looc.py --hue 0.5 --augmentations color,rotation --plus-plus             LooC++: the last stage is each head's own
python examples/looc.py --augmentations none                          MoCo, the control; rows of the first table:
python examples/looc.py --augmentations none --rotation independent   MoCo + Rotation
python examples/looc.py --augmentations none --rotation shared        the same turn for query and key
python examples/looc.py --data digits --size 16 --no-flip --steps 400 handwriting, which has an upper side
python examples/looc.py --score runs/supervised                       Supervised: scores of a ConvNet that another example trained
torchrun --nproc-per-node 2 examples/looc.py                          as many processes as you have GPUs

Expect, linear probes, mean of seeds 0, 1, 2. Generated pictures, 150 CPU seconds: class 12.3 -> 16.8 %, MoCo 15.6, MoCo + Rotation 14.4; no
head learns the turn, 27.7 -> 27.6 %. With --hue 0.5 the hue of the object, 40.2 % before: both spaces 43.7, MoCo 14.0, LooC++ 46.6 -> 49.1.
Handwriting, 45 CPU seconds, class and quarter turn: 95.2 and 84.5 %; MoCo 98.3 and 82.3, MoCo + Rotation 92.0 and 78.5, with the same turn
96.2 and 83.1, the random network 96.2 and 80.0 %.
"""

import argparse
import functools
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Run,
    Teacher,
    batch_of,
    floats,
    knn_score,
    load_data,
    loss_curve,
    processes,
    run_options,
    score_table,
    set_rate,
    share_of,
)
from looc_spaces import hues_of, measure, space_table
from sslkit.augmentations import ImageBackgrounds, LeaveOneOut, RandomTexture, looc
from sslkit.backbones import ConvNet, convnet_small
from sslkit.datasets import Scenes
from sslkit.losses import looc_loss
from sslkit.modules import MomentumEncoder, MultiHeadProjector, SupportSet
from sslkit.plots import contact_sheet, save_picture

SPACES = ("color", "rotation", "texture")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=600, out="runs/looc", accumulate=False)
    parser.set_defaults(batch=128)
    parser.add_argument("--augmentations", default="rotation", help=f"with a space of their own: of {', '.join(SPACES)}; or none")
    parser.add_argument("--rotation", choices=["none", "independent", "shared"], default="none", help="without a space: turns all the same")
    parser.add_argument("--plus-plus", action="store_true", help="LooC++: the last stage of the backbone is each head's own")
    parser.add_argument("--others", choices=["image", "batch"], default="image", help="whose other keys a head must tell from its own")
    parser.add_argument("--queue", type=int, default=2048, help="rows of each head's queue; 16384 in the paper")
    parser.add_argument("--momentum", type=float, default=0.97, help="of the keys' encoder; 0.999 in the paper")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--crop", type=float, default=0.4, help="smallest share of the picture that a view shows")
    parser.add_argument("--hue", type=float, default=0.1, help="largest hue shift, in turns")
    parser.add_argument("--texture", type=float, default=0.5, help="largest amount of another texture, where texture has a space")
    parser.add_argument("--distinct", action="store_true", help="a key without the query's turn never has it by chance")
    parser.add_argument("--no-flip", action="store_true", help="for writing, where a mirrored sign is another sign")
    parser.add_argument("--score", type=Path, help="train nothing: score the ConvNet of a run of supervised.py or simclr.py")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    if options.score:
        options.augmentations, options.plus_plus = "none", False
    options.spaces = [] if options.augmentations == "none" else options.augmentations.split(",")
    if not set(options.spaces) <= set(SPACES) or len(set(options.spaces)) != len(options.spaces):
        parser.error(f"--augmentations: got {options.augmentations!r}; expected none, or some of {', '.join(SPACES)}. To mend: pass one")
    if options.rotation != "none" and options.spaces:
        parser.error("--rotation: got turns without a space beside spaces; expected one of the two. To mend: pass --augmentations none")
    if options.distinct and "rotation" not in options.spaces:
        parser.error("--distinct: got no space for turns; expected rotation among --augmentations. To mend: leave it out")
    return options


@functools.cache
def surfaces(size):
    """Generated pictures without an object, whose textures are laid over others."""
    return Scenes("train", max(24, size)).backgrounds(torch.arange(1000))


def views_of(options, device=None):
    """Query and keys: crop and flip are every view's own, and so is all that a key does not share with the query."""
    spaces = options.spaces if options.rotation == "none" else ["rotation"]
    texture = None
    if "texture" in spaces:
        pictures = ImageBackgrounds(surfaces(options.size).to(device))
        texture = RandomTexture(pictures, strength=options.texture, radius=max(1, round(options.size / 16)))
    views = looc(options.size, spaces, texture=texture, scale=(options.crop, 1.0), jitter=(0.4, 0.4, 0.4, options.hue), jitter_p=1, blur=0,
                 flip=0.0 if options.no_flip else 0.5, interpolation="bicubic")  # fmt: skip
    if options.rotation == "independent":
        return LeaveOneOut(views.ops)
    return replace(views, all_shared=options.rotation == "shared", distinct=options.distinct)


class Network(nn.Module):
    """Pictures -> projections of every head, [heads, batch, 64]; `forward` of `features` gives what another task uses."""

    def __init__(self, channels, heads, plus_plus):
        super().__init__()
        whole = convnet_small(channels)
        self.backbone = ConvNet(channels, (24, 48, 48, 96), (2, 2, 1, 2)) if plus_plus else whole
        self.plus_plus, self.dim = plus_plus, whole.dim
        self.heads = MultiHeadProjector(whole.dim, 64, heads, head_factory=self.stage if plus_plus else None)

    def stage(self):
        """The last stage of the small ConvNet, and its mean over places."""
        return nn.Sequential(
            nn.Conv2d(96, 96, 3, padding=1, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, images):
        return self.heads(self.backbone.maps(images) if self.plus_plus else self.backbone(images))


class Features(nn.Module):
    """The backbone's embedding, of LooC++ the last stages of all heads side by side; with `spaces`, then every head's unit projection."""

    def __init__(self, network, spaces=False):
        super().__init__()
        self.network, self.spaces = network, spaces

    def forward(self, images):
        network = self.network
        inputs = network.backbone.maps(images) if network.plus_plus else network.backbone(images)
        features = network.heads.concatenate(inputs) if network.plus_plus else inputs
        return torch.cat([features, *nn.functional.normalize(network.heads(inputs), dim=2)], dim=1) if self.spaces else features


def train(options, run, data, network, teacher, queues, group, device):
    """The algorithm; network, teacher and queues are moved in place."""
    views = views_of(options, device)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=options.weight_decay)
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    trained = torch.compile(trained) if options.compile else trained
    for step in run.progress({"network": network, "teacher": teacher, "queues": queues, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        indices = share_of(batch, group)
        query, *seen = views(floats(data.train[indices]).to(device), indices=indices.to(device), seed=options.seed, epoch=epoch)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            queries = trained(query.contiguous(memory_format=torch.channels_last))  # [heads, batch, 64]
            keys = torch.stack([teacher(view.contiguous(memory_format=torch.channels_last)) for view in seen])  # [views, heads, batch, 64]
        rows = torch.stack([queue.rows for queue in queues])
        loss = looc_loss(queries, keys, rows, views.shared, temperature=options.temperature, others=options.others, group=group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(options.momentum)
        for view, head in enumerate(views.shared):
            queues[head].enqueue(keys[view, head], group=group)
        run.write(step + 1, loss=loss.item())
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{loss.item():.3f}", knn=f"{knn_score(Features(network), data, 500, device):.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        torch.manual_seed(options.seed)
        heads = 1 + len(options.spaces)
        network = Network(data.train.shape[1], heads, options.plus_plus).to(device, memory_format=torch.channels_last)
        teacher = MomentumEncoder(network, buffers="own").to(device)
        generator = torch.Generator().manual_seed(options.seed)
        queues = nn.ModuleList(SupportSet(options.queue, 64, generator=generator) for _ in range(heads)).to(device)
        ask = functools.partial(measure, Features(network), Features(network, spaces=True), data, hues_of(options), device)
        controls = ask()
        if options.score:
            network.backbone = Teacher(options.score, data.train.shape[1], classify=False).network.to(device)
        else:
            train(options, run, data, network, teacher, queues, group, device)
        if rank == 0:
            report(options, run, data, ask, controls)


def report(options, run, data, ask, controls):
    """Scores beside the random network, of features and spaces; the views of four pictures."""
    names = () if options.score else ("invariant", *options.spaces)
    found, pixels = ask(names), knn_score(nn.Flatten(), data)
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()})
    after = str(options.score or f"after {run.steps} steps")
    if "knn" in found:
        print(score_table(data, pixels, {"random network": controls, after: found}))
    print(space_table(controls, found, after, names))
    if options.score:
        return
    views = views_of(options)
    shown = views(floats(data.test[:4]), indices=torch.arange(4), seed=options.seed)
    names = ["query", "key 0", *(f"key of {space}" for space in options.spaces)]
    columns = [floats(data.test[:4]), *shown]
    sheet = torch.stack(columns, dim=1).flatten(0, 1).repeat_interleave(3, 2).repeat_interleave(3, 3)
    print(save_picture(contact_sheet(sheet, columns=len(columns), titles=["picture", *names] * 4), options.out / "views.png"))
    print(loss_curve(options.out))


if __name__ == "__main__":
    main()
