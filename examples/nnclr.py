"""NNCLR: the positive of a view is the nearest neighbour of the other one in a support set (Dwibedi et al. 2021, sec. 3.2).

python examples/nnclr.py                                        handwriting, crops alone: the paper's hardest setting
python examples/nnclr.py --positive view                        the control without neighbours; also --momentum 0.99, --queue 256, --topk 4,
                                                                --neighbour soft: rows of the paper's tables 4 and 5
python examples/nnclr.py --crops 2+4                            four local views, which take the neighbours of the two large ones
python examples/nnclr.py --data scenes --size 32 --augment full --flip --steps 500
torchrun --nproc-per-node 2 examples/nnclr.py                   as many processes as you have GPUs

Expect 300 steps, about 20 CPU seconds, mean of seeds 0 to 4: linear with five labels a class 80.0 -> 88.1 %, 86.0 % with --positive view;
linear 96.4 -> 97.9 %, k-NN 96.2 -> 95.6 % (raw pixels 98.2). In the last steps 91 % of the neighbours are of the picture's class.
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
    local_views,
    loss_curve,
    processes,
    read_log,
    run_options,
    score_table,
    scores,
    set_rate,
    share_of,
)
from sslkit.augmentations import nnclr
from sslkit.backbones import convnet_small
from sslkit.counter import uniforms
from sslkit.distributed import mean_rows
from sslkit.evaluation import nearest_neighbours, neighbour_match_accuracy
from sslkit.losses import nnclr_loss
from sslkit.modules import MLPPredictor, MLPProjector, MomentumEncoder, Neighbours, SupportSet, encode_views
from sslkit.plots import curves, neighbour_picture

SLOT = 1 << 20  # the first of a picture's draws of its neighbours, beyond those of its views


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=300, out="runs/nnclr", accumulate=False)
    parser.set_defaults(data="digits", size=16)
    parser.add_argument("--positive", choices=["nn", "view"], default="nn", help="the neighbour of the view, or the view itself")
    parser.add_argument("--momentum", type=float, default=0.0, help="of an encoder that makes what is looked up and stored; 0: none")
    parser.add_argument("--queue", type=int, default=1024, help="rows of the support set; 98304 in the paper")
    parser.add_argument("--topk", type=int, default=1, help="the positive is one of so many neighbours, drawn anew each step")
    parser.add_argument("--neighbour", choices=["hard", "soft"], default="hard", help="soft: a mean of all rows, by their similarity")
    parser.add_argument("--both-directions", action="store_true", help="the softmax over the neighbours, too")
    parser.add_argument(
        "--probe", type=int, default=0, help="linear probes over the run, which go to the log and a picture beside the match"
    )
    parser.add_argument("--augment", choices=["full", "crop"], default="crop")
    parser.add_argument("--crops", default="2", help="large views, or large+local ones: 2+6 in the paper")
    parser.add_argument("--crop", type=float, default=0.4, help="smallest share of the picture that a view shows")
    parser.add_argument("--local-scale", type=float, nargs=2, default=(0.15, 0.5), help="share of the picture that a local view shows")
    parser.add_argument("--hue", type=float, default=0.5, help="largest hue shift, in turns, with --augment full")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=False, help="not for writing, where it makes another sign")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    if not 0 <= options.momentum < 1:
        parser.error(f"--momentum: got {options.momentum}; expected a number in [0, 1). To mend: pass 0.99, or 0 for no second encoder")
    largest = options.queue if options.neighbour == "hard" else 1
    if not 1 <= options.topk <= largest:
        parser.error(f"--topk: got {options.topk} {options.neighbour} neighbours; expected 1 to {largest}. To mend: pass --topk 1")
    options.local_views = local_views(parser, options.crops)
    return options


class Network(nn.Module):
    """Views of pictures -> projections z and predictions p, [views, batch, dim] each."""

    def __init__(self, encoder):
        super().__init__()
        self.projector = nn.Sequential(encoder, MLPProjector(encoder.dim, 256, 64, layers=3, last_batch_norm="affine"))
        self.predictor = MLPPredictor(64, 256)

    def forward(self, views):
        return encode_views(lambda x: torch.cat([z := self.projector(x), self.predictor(z)], dim=1), views).chunk(2, dim=2)


def positives(support, z, view, options, indices, epoch):
    """The positives of a large view, [batch, 64], and the neighbours they come from."""
    near = support.nearest(z, options.topk, options.temperature if options.neighbour == "soft" else None)
    if options.topk > 1:  # drawn by the picture's number, so that one process and two draw alike
        u = uniforms(len(z), 1, indices=indices, seed=options.seed, epoch=epoch, offset=SLOT + view)[:, 0]
        drawn = torch.arange(len(z), device=z.device), (u * options.topk).long()
        near = Neighbours(near.rows[drawn], near.similarity[drawn], near.ids[drawn], near.labels[drawn])
    return (z if options.positive == "view" else near.rows), near


def train(options, run, data, network, teacher, support, group, device):
    """The algorithm; network, teacher and support are moved in place."""
    views = nnclr(options.size, None, options.local_views, scale=(options.crop, 1.0), local_scale=tuple(options.local_scale),
                  jitter=(0.4, 0.4, 0.4, options.hue), blur=0, flip=0.5 if options.flip else 0.0,
                  crop_only=options.augment == "crop")  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=options.weight_decay)
    trained = network if group is None else DistributedDataParallel(network, process_group=group)
    trained = torch.compile(trained) if options.compile else trained
    parts = {"network": network, "support": support, "optimizer": optimizer} | ({"teacher": teacher} if teacher else {})
    for step in run.progress(parts, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        indices = share_of(batch, group)
        labels = None if data.train_labels is None else data.train_labels[indices].to(device)
        images = floats(data.train[indices]).to(device)
        indices = indices.to(device)
        x = views(images, indices=indices, seed=options.seed, epoch=epoch)
        x = [view.contiguous(memory_format=torch.channels_last) for view in x]
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            z, p = trained(x)  # [views, batch, 64], the two large views first
            z = encode_views(teacher, x[:2]) if teacher else z[:2].detach()
        targets = [positives(support, z[view], view, options, indices, epoch) for view in range(2)]
        pairs = [(t, v) for t in range(2) for v in range(len(p)) if v != t]  # every view but the neighbour's own
        loss = sum(nnclr_loss(targets[t][0], p[v], temperature=options.temperature, both_directions=options.both_directions, group=group)
                   for t, v in pairs) / len(pairs)  # fmt: skip
        near1 = targets[0][1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if teacher:
            teacher.update(options.momentum)
        numbers = {"loss": loss.item(), "similarity": mean_rows(near1.similarity[:, None], group).item()}
        if labels is not None:
            numbers["match"] = neighbour_match_accuracy(near1.labels, labels, group=group).item()
        support.enqueue(z[0], labels, group)
        if run.rank == 0 and options.probe and (step + 1) % max(1, run.steps // options.probe) == 0:
            encoder = network.projector[0]
            numbers |= scores(encoder, data, embed(encoder, data.test, device), device)
        run.write(step + 1, **numbers)
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            knn = knn_score(network.projector[0], data, 500, device)
            run.bar.set_postfix(loss=f"{numbers['loss']:.3f}", match=f"{numbers.get('match', float('nan')):.2f}", knn=f"{knn:.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        torch.manual_seed(options.seed)
        encoder = convnet_small(data.train.shape[1])
        network = Network(encoder).to(device, memory_format=torch.channels_last)
        teacher = MomentumEncoder(network.projector, buffers="own").to(device) if options.momentum else None
        support = SupportSet(options.queue, 64, generator=torch.Generator().manual_seed(options.seed)).to(device)
        controls = scores(encoder, data, embed(encoder, data.test, device), device)
        before = nearest(network, data, device)
        train(options, run, data, network, teacher, support, group, device)
        if rank == 0:
            report(options, run, data, network, device, controls, before)


def nearest(network, data, device):
    """Six test pictures, of different classes where there are so many, and the five training pictures whose projections are nearest."""
    labels = torch.arange(len(data.test)) if data.test_labels is None else data.test_labels
    queries = torch.stack([(labels == label).nonzero()[0, 0] for label in labels.unique()[:6]])
    z, stored = (embed(network.projector, images, device) for images in (data.test[queries], data.train))
    return queries, nearest_neighbours(z, stored, 5).ids if z.isfinite().all() and stored.isfinite().all() else None


def report(options, run, data, network, device, controls, before):
    """Scores beside two controls, how often the neighbour was of the same class, and pictures of neighbours before and after."""
    encoder = network.projector[0]
    found, pixels = scores(encoder, data, embed(encoder, data.test, device), device), knn_score(nn.Flatten(), data)
    log = read_log(options.out)
    told = [name for name in ("similarity", "match") if name in log[0]]
    last = {name: sum(line[name] for line in log[-20:]) / len(log[-20:]) for name in ("loss", *told)}  # one step alone is noisy
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()}, **last)
    if found:
        print(score_table(data, pixels, {"random network": controls, f"after {run.steps} steps": found}))
    print(loss_curve(options.out), loss_curve(options.out, told, file="match.png", y_label="of the nearest neighbour"), sep="\n")
    probed = [line for line in log if {"match", "few_shot"} <= line.keys()]
    if probed:
        match = [line["match"] for line in probed]
        rows = {title: (match, [line[name] for line in probed]) for name, title in (("few_shot", "5 labels a class"), ("linear", "all"))}
        print(curves(rows, options.out / "match_probe.png", x_label="share of neighbours of the picture's class, in the course of the run",
                     y_label="linear probe, %"))  # fmt: skip
    queries, ids = nearest(network, data, device)
    if ids is not None:
        labels = {} if data.test_labels is None else {"query_labels": data.test_labels[queries], "database_labels": data.train_labels}
        print(neighbour_picture(data.test[queries], data.train, before[1], ids, options.out / "neighbours.png", **labels,
                                titles=("view", "neighbours before", "neighbours after")))  # fmt: skip


if __name__ == "__main__":
    main()
