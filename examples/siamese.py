"""The baselines of DINO's and DiLo's tables: one loop, a method is what it predicts, from which state, by which loss.

python examples/siamese.py --method byol           a momentum teacher's projection of the other view    (Grill et al. 2020)
python examples/siamese.py --method simsiam        its own projection, without gradient                 (Chen & He 2021)
python examples/siamese.py --method swav           the other view's assignment to prototypes            (Caron et al. 2020)
python examples/siamese.py --method swav --crops 2+2 --queue 2048
python examples/siamese.py --method deepcluster    the picture's cluster of the last epoch              (Caron et al. 2020, appendix)
python examples/siamese.py --method barlow         a cross-correlation that is the identity             (Zbontar et al. 2021)
python examples/siamese.py --method vicreg         variance, invariance, covariance                     (Bardes et al. 2022)
python examples/siamese.py --method instdist       its own row of a memory bank                         (Wu et al. 2018)
python examples/siamese.py --method cmc            the other colour channels' row of a memory bank      (Tian et al. 2020)
torchrun --nproc-per-node 2 examples/siamese.py    as many processes as you have GPUs

Views of one size pass in one batch, so BatchNorm sees all of them; the authors of BYOL, SimSiam, Barlow Twins and VICReg pass each alone.

Expect on the generated pictures, --steps 600 --batch 128, 70 to 170 CPU seconds, mean of seeds 0, 1, 2, linear: 17.8 % before training
(chance 8.3); VICReg 54.7, InstDist 44.3, SwAV 44.0, Barlow Twins 43.0, DeepCluster v2 39.8, SimSiam 28.6, BYOL 27.7 %; CMC, of two
networks, 24.4 -> 37.9 %.
"""

import argparse
import copy

import torch
from kornia.color import rgb_to_lab
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from common import (
    Pooled,
    Run,
    batch_of,
    embed,
    floats,
    knn_score,
    load_data,
    local_views,
    loss_curve,
    processes,
    run_options,
    score_table,
    scores,
    set_rate,
    share_of,
    small_resnet,
)
from sslkit.augmentations import dino
from sslkit.backbones import ViT, convnet_small
from sslkit.distributed import gather
from sslkit.losses import (
    barlow_twins_loss,
    byol_loss,
    deepcluster_loss,
    nce_loss,
    nce_normalizer,
    simsiam_loss,
    spherical_kmeans,
    swav_codes,
    swav_loss,
    vicreg_loss,
)
from sslkit.modules import MemoryBank, MLPPredictor, MLPProjector, MomentumEncoder, Prototypes, encode_views
from sslkit.optim import drop_gradients
from sslkit.schedules import cosine

METHODS = ["byol", "simsiam", "swav", "deepcluster", "barlow", "vicreg", "instdist", "cmc"]
PREDICTED = ("byol", "simsiam")


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=400, out="runs/siamese", accumulate=False)
    parser.set_defaults(data="scenes:easy")
    parser.add_argument("--method", choices=METHODS, default="byol")
    parser.add_argument("--backbone", choices=["convnet", "resnet", "vit"], default="convnet", help="resnet: ResNet-18 without its stem")
    parser.add_argument("--patch", type=int, default=4, help="of the ViT, 96 wide and 4 blocks deep")
    parser.add_argument("--crops", default="2", help="global views, or global+local ones: 2+4; byol and swav take local ones")
    parser.add_argument("--hidden", type=int, default=256, help="of projector and predictor")
    parser.add_argument("--dim", type=int, default=128, help="of the projection")
    parser.add_argument("--base-momentum", type=float, default=0.99, help="byol: rises to 1 by a cosine")
    parser.add_argument("--prototypes", type=int, default=128, help="swav and deepcluster; 3000 in the paper")
    parser.add_argument("--queue", type=int, default=0, help="swav: earlier embeddings that help to balance, once there are so many")
    parser.add_argument("--freeze", type=int, default=31, help="swav: steps without the prototypes; an epoch in the paper")
    parser.add_argument("--negatives", type=int, default=1024, help="instdist and cmc: rows drawn; 4096 in the paper")
    parser.add_argument("--lambd", type=float, default=0.0051, help="barlow: weight of what is off the diagonal")
    parser.add_argument("--hue", type=float, default=0.5, help="jitter; 0.5 takes the colour away as a shortcut")
    parser.add_argument("--crop-only", action="store_true", help="views by cropping and flipping alone")
    parser.add_argument("--no-flip", action="store_true", help="for writing, where a mirrored sign is another sign")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    options.local_views = local_views(parser, options.crops)
    if options.method == "cmc" and options.backbone != "convnet":
        parser.error(f"--backbone: got {options.backbone} with cmc; expected convnet, two of them. To mend: leave it out")
    if options.local_views and options.method not in ("byol", "swav"):
        parser.error(f"--crops: got {options.crops!r} with {options.method}; expected 2, or 2+N for byol and swav. To mend: pass --crops 2")
    return options


class Colours(nn.Module):
    """CMC's two networks: one sees lightness, one the two colour axes of Lab; features are those of both."""

    def __init__(self):
        super().__init__()
        self.lightness, self.colour = convnet_small(1), convnet_small(2)
        self.dim = self.lightness.dim + self.colour.dim

    def both(self, images):
        lab = rgb_to_lab(images)
        return self.lightness(lab[:, :1] / 50 - 1), self.colour(lab[:, 1:] / 110)

    def forward(self, images):
        return torch.cat(self.both(images), dim=1)


class Student(nn.Module):
    """Views of pictures -> what the loss takes of each, [views, batch, dim]: predictions, scores or projections."""

    def __init__(self, options, backbone):
        super().__init__()
        self.backbone, self.method = backbone, options.method
        heads = 2 if options.method == "cmc" else 1
        width = backbone.dim // heads
        self.projectors = nn.ModuleList(
            MLPProjector(width, options.hidden, options.dim, layers=3 if options.method in ("barlow", "vicreg") else 2)
            for _ in range(heads)
        )
        self.predictor = MLPPredictor(options.dim, options.hidden) if options.method in PREDICTED else None
        self.prototypes = Prototypes(options.dim, options.prototypes) if options.method == "swav" else None

    def project(self, views):
        if self.method == "cmc":
            both = self.backbone.both(views[0])
            return torch.stack([projector(x) for projector, x in zip(self.projectors, both, strict=True)])
        if self.method == "instdist":
            views = views[:1]  # its positive is a row of the bank
        return encode_views(lambda x: self.projectors[0](self.backbone(x)), views)

    def forward(self, views):
        z = self.project(views)
        if self.predictor is not None:
            return z, self.predictor(z.flatten(0, 1)).view_as(z)
        return z, None if self.prototypes is None else self.prototypes(z)


class Teacher(nn.Module):
    """What BYOL's teacher is of the student: backbone and projector."""

    def __init__(self, student):
        super().__init__()
        self.backbone, self.projector = student.backbone, student.projectors[0]

    def forward(self, views):
        return encode_views(lambda x: self.projector(self.backbone(x)), views)


class State(nn.Module):
    """What a method remembers from step to step, beside its student; every tensor here is in the checkpoint."""

    def __init__(self, options, student, pictures):
        """pictures: all of training, [pictures, channels, height, width]."""
        super().__init__()
        generator = torch.Generator().manual_seed(options.seed)
        self.options, banks = options, {"instdist": 1, "cmc": 2, "deepcluster": 2}.get(options.method, 0)
        self.teacher = MomentumEncoder(Teacher(student), buffers="own") if options.method == "byol" else None
        momentum = 0.0 if options.method == "deepcluster" else 0.5
        self.banks = nn.ModuleList(MemoryBank(len(pictures), options.dim, momentum=momentum, generator=generator) for _ in range(banks))
        self.register_buffer("normalizer", torch.zeros(banks))  # of NCE, from the first step
        self.register_buffer("queue", torch.zeros(options.queue, 2, options.dim))  # newest first, of all processes
        clustered = options.method == "deepcluster"
        self.register_buffer("centroids", torch.zeros(2, options.prototypes if clustered else 0, options.dim))
        self.register_buffer("assignments", torch.full((2, len(pictures) if clustered else 0), -1))
        if banks:
            self.fill_banks(student, pictures)

    @torch.no_grad()
    def fill_banks(self, student, pictures):
        """The first rows: the untrained network's. Random ones, which it would have to chase, leave it no better than chance."""
        untrained, device = copy.deepcopy(student), next(student.parameters()).device  # the student's own BatchNorm does not move
        for ids in torch.arange(len(pictures)).chunk(-(-len(pictures) // 512)):
            z, _ = untrained([floats(pictures[ids]).to(device)])
            for k, bank in enumerate(self.banks):
                bank.rows[ids] = functional.normalize(z[k % len(z)], dim=1).to(bank.rows.device)

    def loss(self, student, views, z, out, draw, group):
        options, indices = self.options, draw["indices"]
        if options.method == "byol":
            targets = self.teacher(views[:2])
            pairs = [(v, t) for t in range(2) for v in range(len(views)) if v != t]
            return sum(byol_loss(out[v], targets[t], group=group) for v, t in pairs) * 2 / len(pairs)
        if options.method == "simsiam":
            return (simsiam_loss(out[0], z[1], group=group) + simsiam_loss(out[1], z[0], group=group)) / 2
        if options.method == "swav":
            full = options.queue and draw["step"] * options.batch >= options.queue
            earlier = student.prototypes(share_of(self.queue, group).transpose(0, 1)).detach() if full else None
            return swav_loss(out, swav_codes(out[:2].detach(), queue_scores=earlier, group=group), group=group)
        if options.method == "barlow":
            return barlow_twins_loss(*z, lambd=options.lambd, group=group)
        if options.method == "vicreg":
            return vicreg_loss(*z, group=group)
        if options.method == "deepcluster":
            scores = functional.normalize(z, dim=-1) @ self.centroids[:, None].mT  # [heads, views, batch, prototypes]
            return deepcluster_loss(scores, self.assignments[:, indices], group=group)
        return self.discriminate(z, draw, group)

    def discriminate(self, z, draw, group):
        """NCE of each picture's own row; the lightness is looked up in the colours' bank, and the other way round."""
        total, crossed = 0.0, list(self.banks)[::-1]
        for k, (bank, x) in enumerate(zip(crossed, z, strict=False)):
            similarity = bank(x, bank.candidates(draw["indices"], self.options.negatives, seed=self.options.seed + k, epoch=draw["epoch"]))
            if draw["step"] == 0:
                self.normalizer[k] = nce_normalizer(similarity, len(bank.rows), group=group)
            total = total + nce_loss(similarity, self.normalizer[k], len(bank.rows), group=group)
        return total

    def begin_epoch(self):
        """DeepCluster's clusters, of last epoch's embeddings."""
        for head, bank in enumerate(self.banks if self.options.method == "deepcluster" else ()):
            start = bank.rows[torch.randperm(len(bank.rows), generator=torch.Generator().manual_seed(head))[: self.options.prototypes]]
            found = spherical_kmeans(bank.rows, start)  # every process has all rows
            self.centroids[head], self.assignments[head] = found.centroids, found.assignments

    @torch.no_grad()
    def update(self, z, draw, momentum, group):
        """Once a step, after the optimiser's."""
        if self.teacher is not None:
            self.teacher.update(momentum)
        for bank, x in zip(self.banks, z, strict=False):
            bank.update(draw["indices"], x, group)
        if self.options.queue and self.options.method == "swav":
            fresh = gather(z[:2].detach().transpose(0, 1).contiguous(), group).rows  # [global batch, 2, dim]
            self.queue = torch.cat([fresh, self.queue])[: self.options.queue]


def build(options, data, device):
    torch.manual_seed(options.seed)
    channels = data.train.shape[1]
    if options.method == "cmc":
        backbone = Colours()
    elif options.backbone == "vit":
        backbone = Pooled(ViT(options.size, options.patch, 96, 4, 3, channels=channels), "cls")
    else:
        backbone = small_resnet(channels) if options.backbone == "resnet" else convnet_small(channels)
    student = Student(options, backbone).to(device, memory_format=torch.channels_last)
    return student, State(options, student, data.train).to(device)


def train(options, run, data, student, state, group, device):
    """The algorithm; student and state are moved in place."""
    local = max(1, round(3 * options.size / 7 / options.patch)) * options.patch
    colours = {"jitter_p": 0.0, "grayscale": 0.0} if options.crop_only else {"jitter": (0.4, 0.4, 0.4, options.hue)}
    views = dino(options.size, local, options.local_views, scale=(0.4, 1.0), local_scale=(0.15, 0.5), blur=(0, 0, 0), solarize=0.0,
                 flip=0.0 if options.no_flip else 0.5, **colours)  # fmt: skip
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=options.weight_decay)
    network = student if group is None else DistributedDataParallel(student, process_group=group)
    network = torch.compile(network) if options.compile else network
    for step in run.progress({"student": student, "state": state, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        if step % (len(data.train) // options.batch) == 0:
            state.begin_epoch()
        indices = share_of(batch, group)
        draw = {"indices": indices.to(device), "epoch": epoch, "step": step}
        crops = views(floats(data.train[indices]).to(device), indices=draw["indices"], seed=options.seed, epoch=epoch)
        if student.prototypes is not None:
            student.prototypes.normalize()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            z, out = network(crops)
        loss = state.loss(student, crops, z, out, draw, group)
        optimizer.zero_grad()
        loss.backward()
        if student.prototypes is not None and step < options.freeze:
            drop_gradients(student, "prototypes")
        optimizer.step()
        state.update(z, draw, cosine(step, base=options.base_momentum, final=1.0, steps=run.steps), group)
        run.write(step + 1, loss=loss.item())
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{loss.item():.3f}", knn=f"{knn_score(student.backbone, data, 500, device):.1f} %")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        student, state = build(options, data, device)
        controls = scores(student.backbone, data, embed(student.backbone, data.test, device), device)
        train(options, run, data, student, state, group, device)
        if rank == 0:
            report(options, run, data, student.backbone, device, controls)


def report(options, run, data, backbone, device, controls):
    """Scores beside two controls, the random network and the raw pixels."""
    found, pixels = scores(backbone, data, embed(backbone, data.test, device), device), knn_score(nn.Flatten(), data)
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()})
    if found:
        print(score_table(data, pixels, {"random network": controls, f"{options.method}, {run.steps} steps": found}))
    print(loss_curve(options.out))


if __name__ == "__main__":
    main()
