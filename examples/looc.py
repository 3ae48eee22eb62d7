"""LooC: one embedding space for each augmentation, which keeps what it did, and one that ignores all (Xiao et al. 2021, fig. 2).

python examples/looc.py                                               rotation: a head that keeps it, and one that ignores it
python examples/looc.py --augmentations color,rotation                a head for each; --augmentations color: rows of the second table
python examples/looc.py --augmentations color,rotation --plus-plus    LooC++: the last stage is each head's own
python examples/looc.py --augmentations none                          MoCo, the control; rows of the first table:
python examples/looc.py --augmentations none --rotation independent   MoCo + Rotation
python examples/looc.py --augmentations none --rotation shared        the same turn for query and key
torchrun --nproc-per-node 2 examples/looc.py                          as many processes as you have GPUs
"""

import argparse

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Run,
    batch_of,
    embed,
    floats,
    knn_score,
    load_data,
    loss_curve,
    processes,
    run_options,
    score_table,
    scores,
    set_rate,
    share_of,
)
from sslkit.augmentations import ColorJitter, Grayscale, HorizontalFlip, LeaveOneOut, QuarterTurn, RandomResizedCrop
from sslkit.backbones import ConvNet, convnet_small
from sslkit.evaluation import linear_probe
from sslkit.losses import looc_loss
from sslkit.modules import MomentumEncoder, MultiHeadProjector, SupportSet
from sslkit.plots import contact_sheet, save_picture

SPACES = ("color", "rotation")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=600, out="runs/looc")
    parser.set_defaults(data="scenes:easy")
    parser.add_argument("--augmentations", default="rotation", help="with a space of their own: color, rotation, both by a comma, or none")
    parser.add_argument("--rotation", choices=["none", "independent", "shared"], default="none", help="without a space: turns all the same")
    parser.add_argument("--plus-plus", action="store_true", help="LooC++: the last stage of the backbone is each head's own")
    parser.add_argument("--others", choices=["image", "batch"], default="image", help="whose other keys a head must tell from its own")
    parser.add_argument("--queue", type=int, default=2048, help="rows of each head's queue; 16384 in the paper")
    parser.add_argument("--momentum", type=float, default=0.97, help="of the keys' encoder; 0.999 in the paper")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--crop", type=float, default=0.4, help="smallest share of the picture that a view shows")
    parser.add_argument("--hue", type=float, default=0.1, help="largest hue shift, in turns")
    parser.add_argument("--no-flip", action="store_true", help="for writing, where a mirrored sign is another sign")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    options.spaces = [] if options.augmentations == "none" else options.augmentations.split(",")
    if not set(options.spaces) <= set(SPACES) or len(set(options.spaces)) != len(options.spaces):
        parser.error(f"--augmentations: got {options.augmentations!r}; expected none, or some of {', '.join(SPACES)}. To mend: pass one")
    if options.rotation != "none" and options.spaces:
        parser.error("--rotation: got turns without a space beside spaces; expected one of the two. To mend: pass --augmentations none")
    return options


def views_of(options):
    """Query and keys: crop and flip are every view's own, and so is all that a key does not share with the query."""
    turns = [QuarterTurn((1, 2, 3))] if "rotation" in options.spaces or options.rotation != "none" else []
    colours = [ColorJitter(0.4, 0.4, 0.4, options.hue), Grayscale(0.2)]
    ops = [*turns, RandomResizedCrop(options.size, scale=(options.crop, 1.0)), HorizontalFlip(0.0 if options.no_flip else 0.5), *colours]
    places = {"rotation": (0,), "color": (len(ops) - 2, len(ops) - 1)}
    if options.rotation == "shared":
        return LeaveOneOut(ops, [places["rotation"]], all_shared=True)
    return LeaveOneOut(ops, [places[space] for space in options.spaces])


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
    """The backbone's embedding; of LooC++ the last stages of all heads, side by side."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        network = self.network
        return network.heads.concatenate(network.backbone.maps(images)) if network.plus_plus else network.backbone(images)


def train(options, run, data, network, teacher, queues, group, device):
    """The algorithm; network, teacher and queues are moved in place."""
    views = views_of(options)
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
        heads = len(views_of(options).shared)
        network = Network(data.train.shape[1], heads, options.plus_plus).to(device, memory_format=torch.channels_last)
        teacher = MomentumEncoder(network, buffers="own").to(device)
        generator = torch.Generator().manual_seed(options.seed)
        queues = nn.ModuleList(SupportSet(options.queue, 64, generator=generator) for _ in range(heads)).to(device)
        controls = measure(network, data, device)
        train(options, run, data, network, teacher, queues, group, device)
        if rank == 0:
            report(options, run, data, network, device, controls)


def measure(network, data, device):
    """Scores of the class, and a linear probe of the quarter by which a picture is turned: chance 25 %."""
    features = Features(network)
    found = scores(features, data, embed(features, data.test, device), device)
    turn, sets = QuarterTurn(), []
    for part, images in enumerate((data.probe, data.test)):
        drawn = turn.sample(len(images), images.shape[2:], indices=torch.arange(len(images)), seed=part)
        sets += [embed(features, turn.apply(images, drawn), device), drawn["turns"]]
    finite = sets[0].isfinite().all() and sets[2].isfinite().all()
    return found | {"rotation": linear_probe(*sets).top1 if finite else float("nan")}


def report(options, run, data, network, device, controls):
    """Scores beside the random network, for class and rotation; the views of four pictures."""
    found, pixels = measure(network, data, device), knn_score(nn.Flatten(), data)
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()})
    if "knn" in found:
        print(score_table(data, pixels, {"random network": controls, f"after {run.steps} steps": found}))
    print(f"rotation, a linear probe, chance 25.0: {controls['rotation']:.1f} -> {found['rotation']:.1f} %")
    views = views_of(options)
    shown = views(floats(data.test[:4]), indices=torch.arange(4), seed=options.seed)
    names = ["query", "key 0", *(f"key of {space}" for space in options.spaces)]
    columns = [floats(data.test[:4]), *shown]
    sheet = torch.stack(columns, dim=1).flatten(0, 1).repeat_interleave(3, 2).repeat_interleave(3, 3)
    print(save_picture(contact_sheet(sheet, columns=len(columns), titles=["picture", *names] * 4), options.out / "views.png"))
    print(loss_curve(options.out))


if __name__ == "__main__":
    main()
