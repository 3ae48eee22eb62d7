"""DINO: a student's views of a picture say what a teacher, its own running mean, says of the global ones (Caron et al. 2021, algorithm 1).

python examples/dino.py                                         a ConvNet on generated pictures
python examples/dino.py --teacher sinkhorn --crops 2+4          rows of the paper's table 7: also --momentum none|epoch, --loss mse,
                                                                --predictor, --crops 2|2+4|2+8
python examples/dino.py --accumulate 4                          a batch in parts, which BatchNorm sees one by one; centre, teacher and
                                                                student move once a step
python examples/dino.py --backbone vit --patch 4                a ViT, and what its class token looks at
python examples/dino.py --backbone vit --ibot                   iBOT: hidden patches say what the teacher, which sees them, says
torchrun --nproc-per-node 2 examples/dino.py                    as many processes as you have GPUs; there BatchNorm sees all of them

Expect on the generated pictures, --steps 600 --batch 128, two to three CPU minutes, mean of seeds 0, 1, 2, student: linear 17.8 -> 37.6 %,
linear with five labels a class 10.5 -> 15.6 %, k-NN 17.6 -> 22.1 % (chance 8.3, raw pixels 31.6). The default, 800 steps of 256, nine CPU
minutes, seed 0: linear 50.2 %, five labels 20.7 %, k-NN 31.1 %.
A ViT, --backbone vit --patch 8 --heads 6 --head-norm --steps 2000 --batch 128 --lr 1e-3, twelve CPU minutes, mean of seeds 0 to 4: linear
10.5 -> 19.8 %, k-NN 9.2 -> 15.1 %; its attention covers the object to 27.1 -> 32.6 % (Jaccard; trained with labels 36.3). Three heads,
--data digits --no-flip --patch 4 --steps 400, nine CPU minutes, mean of seeds 0 to 2: linear 72.2 -> 90.3 %, k-NN 41.1 -> 76.2 %.
"""

import argparse
import copy
import math

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Looking,
    Pooled,
    Run,
    attention_jaccard,
    batch_of,
    centred,
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
    small_resnet,
)
from sslkit.augmentations import dino
from sslkit.backbones import ViT, convnet_small
from sslkit.evaluation import attention_masks, collapse_report
from sslkit.losses import DINOCenter, dino_loss, dino_mse_loss, ibot_loss, sinkhorn_knopp
from sslkit.maskers import BlockwiseMasker
from sslkit.modules import DINOHead, MLPPredictor, MomentumEncoder, encode_views
from sslkit.optim import clip_each, dino_groups, drop_gradients
from sslkit.plots import attention_heads, save_picture
from sslkit.schedules import cosine, linear

# of the progress bar: H, of a target and of their mean, the divergence of student and teacher, what a target says of its picture
REPORT = {"H": "entropy", "mean-H": "mean_entropy", "KL": "divergence", "I": "information"}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=800, out="runs/dino")
    parser.set_defaults(data="scenes:easy")
    parser.add_argument("--backbone", choices=["convnet", "resnet", "vit"], default="convnet", help="resnet: ResNet-18 without its stem")
    parser.add_argument("--patch", type=int, default=4, help="of the ViT")
    parser.add_argument("--dim", type=int, default=96, help="of the ViT")
    parser.add_argument("--depth", type=int, default=4, help="of the ViT")
    parser.add_argument("--heads", type=int, help="of the ViT; default: one of each 32 of its width")
    parser.add_argument("--head-norm", action="store_true", help="batch norm in the head of a ViT; a ConvNet has it in any case")
    parser.add_argument("--prototypes", type=int, default=512, help="outputs of the head; 65536 in the paper")
    parser.add_argument(
        "--momentum", choices=["ema", "none", "epoch"], default="ema", help="none: the teacher is the student; epoch: its last epoch"
    )
    parser.add_argument("--base-momentum", type=float, default=0.99, help="rises to 1 by a cosine; 0.996 in the paper's longer runs")
    parser.add_argument("--teacher", choices=["center", "sinkhorn"], default="center", help="what keeps its targets from collapsing")
    parser.add_argument("--center-momentum", type=float, default=0.9, help="1: no centring, only sharpening")
    parser.add_argument("--loss", choices=["ce", "mse"], default="ce")
    parser.add_argument("--predictor", action="store_true", help="one more perceptron for the student alone")
    parser.add_argument("--crops", default="2", help="global views, or global+local ones: 2+8")
    parser.add_argument("--ibot", action="store_true", help="a loss of hidden patches as well, of the ViT's global views")
    parser.add_argument("--ratio", type=float, default=0.3, help="share of the patches that is hidden; 0.1 to 0.5 or none in the paper")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the student")
    parser.add_argument("--teacher-temperature", type=float, default=0.04)
    parser.add_argument("--warm-temperature", type=float, default=0.04, help="of the teacher at first; 0.04 -> 0.07 in longer runs")
    parser.add_argument("--warm-steps", type=int, default=0, help="until the teacher's temperature is reached; 30 epochs in the paper")
    parser.add_argument("--hue", type=float, default=0.5, help="jitter; 0.5 takes the colour away as a shortcut")
    parser.add_argument("--no-flip", action="store_true", help="for writing, where a mirrored sign is another sign")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.04)
    parser.add_argument("--final-weight-decay", type=float, help="reached by a cosine; 0.4 in the paper; default: the first one")
    parser.add_argument("--clip", type=float, default=3.0, help="largest norm of the gradient of a tensor")
    parser.add_argument("--freeze", type=int, default=0, help="steps without the last layer; an epoch in the paper")
    parser.add_argument("--watch", type=int, default=10, help="steps between two looks at entropies and divergence")
    options = parser.parse_args(arguments)
    options.local_views = local_views(parser, options.crops)
    if options.ibot and (options.backbone != "vit" or options.loss != "ce" or options.predictor):
        given = f"--backbone {options.backbone} --loss {options.loss}" + " --predictor" * options.predictor
        parser.error(f"--ibot: got {given}; expected a ViT, which has patches to hide, cross-entropy and no predictor. "
                     "To mend: pass --backbone vit alone with it")  # fmt: skip
    if options.watch < 1:
        parser.error(f"--watch: got {options.watch}; expected 1 or more. To mend: pass 10, or more than --steps to look never")
    if options.accumulate > 1 and options.teacher == "sinkhorn":
        parser.error("--accumulate: got parts with --teacher sinkhorn, which balances a whole batch; expected 1. To mend: leave it out")
    return options


class Network(nn.Module):
    """Backbone and head: views -> logits [views, batch, prototypes], and of patches that a mask of the two global views names.

    Those are [2 * batch, hidden, prototypes], by the same head; None without a mask.
    """

    def __init__(self, backbone, prototypes, norm, ibot):
        super().__init__()
        self.backbone = backbone
        self.head = DINOHead(backbone.dim, prototypes, hidden=256, bottleneck=64, batch_norm=norm)
        self.token = nn.Parameter(torch.zeros(backbone.dim)) if ibot else None

    def forward(self, views, mask=None, *, seen=False):
        """seen: the patches of the mask are not hidden, as for the teacher."""
        if mask is None:
            return self.head(encode_views(self.backbone, views)), None
        hide = {} if seen else {"replace": mask, "mask_token": self.token}
        tokens = self.backbone.encoder(centred(torch.cat(views[:2])), **hide)
        classes = tokens.pooled("cls").unflatten(0, (2, -1))  # [2, batch, dim]
        if len(views) > 2:
            classes = torch.cat([classes, encode_views(self.backbone, views[2:])])
        return self.head(classes), self.head(mask.hidden(tokens.patches))


class Student(nn.Module):
    """The network, and what only the student has."""

    def __init__(self, network, predictor):
        super().__init__()
        self.network, self.predictor = network, predictor

    def forward(self, views, mask=None):
        logits, patches = self.network(views, mask)
        return logits if self.predictor is None else self.predictor(logits.flatten(0, 1)).view_as(logits), patches


def build(options, channels, device):
    torch.manual_seed(options.seed)
    if options.backbone == "vit":
        vit = ViT(
            options.size, options.patch, options.dim, options.depth, options.heads or options.dim // 32, channels=channels, init="dino"
        )
        backbone = Pooled(vit, "cls")
    else:
        backbone = small_resnet(channels) if options.backbone == "resnet" else convnet_small(channels)
    network = Network(backbone, options.prototypes, options.backbone != "vit" or options.head_norm, options.ibot)
    student = Student(network, MLPPredictor(options.prototypes, 256) if options.predictor else None)
    return student.to(device, memory_format=torch.channels_last)  # of convolutions; on a CPU 1.3 times as fast


def train(options, run, data, student, teacher, group, device):
    """The algorithm; student and teacher are moved in place."""
    unit = options.patch if options.backbone == "vit" else 1
    local = max(1, round(3 * options.size / 7 / unit)) * unit
    views = dino(options.size, local, options.local_views, scale=(0.4, 1.0), local_scale=(0.15, 0.5), jitter=(0.4, 0.4, 0.4, options.hue),
                 blur=(0, 0, 0), solarize=0.0, flip=0.0 if options.no_flip else 0.5)  # fmt: skip
    optimizer = torch.optim.AdamW(dino_groups(student, weight_decay=options.weight_decay))
    network = student if group is None else DistributedDataParallel(student, process_group=group)
    network = torch.compile(network) if options.compile else network
    center, patch_center = (DINOCenter(options.prototypes, options.center_momentum).to(device) for _ in range(2))
    parts = {"student": student, "teacher": teacher, "center": center, "optimizer": optimizer}
    mask, n, report = None, len(data.train), {}
    if options.ibot:
        grid, parts["patch_center"] = student.network.backbone.encoder.base, patch_center
        masker = BlockwiseMasker(options.ratio, min_patches=max(1, round(16 / 196 * math.prod(grid))))  # in proportion to BEiT's

    def sharpened(logits, center, temperature):
        """The teacher's targets: centred, or with equal shares for all prototypes."""
        if options.teacher == "center":
            return center(logits, temperature)
        return sinkhorn_knopp(logits.flatten(0, -2), temperature, group=group).view_as(logits)

    for step in run.progress(parts, n):
        epoch, batch = batch_of(step, n, options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        if options.final_weight_decay is not None:
            decay = cosine(step, base=options.weight_decay, final=options.final_weight_decay, steps=run.steps)
            optimizer.param_groups[0]["weight_decay"] = decay
        cold = linear(step, start=options.warm_temperature, final=options.teacher_temperature, steps=options.warm_steps)
        draw, total, seen, patches_seen, looks = {"seed": options.seed, "epoch": epoch}, 0.0, [], [], []
        optimizer.zero_grad()
        for part in batch.tensor_split(options.accumulate):
            indices = share_of(part, group)
            crops = views(floats(data.train[indices]).to(device), indices=indices.to(device), **draw)
            if options.ibot:
                mask = masker.for_indices(torch.cat([indices, n + indices]).to(device), grid, **draw)  # two views, two masks
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                logits, patch_logits = network(crops, mask)
                targets, patch_targets = teacher(crops[:2], mask, seen=True)
            if options.loss == "mse":
                probs, loss = (targets / cold).softmax(dim=-1), dino_mse_loss(logits, targets, group=group)  # probs: to look at alone
            else:
                probs = sharpened(targets, center, cold)
                loss = dino_loss(logits, probs, student_temperature=options.temperature, group=group)
            if options.ibot:
                patch_probs = sharpened(patch_targets, patch_center, cold)
                loss = loss + ibot_loss(patch_logits, patch_probs, student_temperature=options.temperature, group=group)
                patches_seen.append(patch_targets)
            seen.append(targets)
            looks.append((probs, logits.detach()[:2].flip(0)))  # of the other view
            loss = loss * (len(part) / len(batch))
            loss.backward()
            total += loss.item()
        center.update(torch.cat(seen, dim=1), group)  # once a step, as teacher and student move
        if options.ibot:
            patch_center.update(torch.cat(patches_seen), group)
        clip_each(student.parameters(), options.clip)
        if step < options.freeze:
            drop_gradients(student, "last_layer")
        optimizer.step()
        if options.momentum == "ema":
            teacher.update(cosine(step, base=options.base_momentum, final=1.0, steps=run.steps))
        elif options.momentum == "none" or (step + 1) % max(1, n // options.batch) == 0:
            teacher.update(0.0)
        numbers = {"loss": total}
        if (step + 1) % options.watch == 0:
            targets, logits = (torch.cat(parts, dim=1).flatten(0, 1) for parts in zip(*looks, strict=True))
            numbers |= collapse_report(targets, (logits / options.temperature).softmax(dim=-1), group=group).to_dict()
            report = {key: f"{numbers[name]:.3f}" for key, name in REPORT.items()}
        run.write(step + 1, **numbers)
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            shown = {"loss": f"{total:.3f}"} | report
            if data.probe_labels is not None:
                shown["knn"] = f"{knn_score(student.network.backbone, data, 500, device):.1f} %"
            run.bar.set_postfix(shown)


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        student = build(options, data.train.shape[1], device)
        if group is not None and device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        teacher = MomentumEncoder(student.network, buffers="own").to(device)
        untrained = copy.deepcopy(student.network.backbone)
        train(options, run, data, student, teacher, group, device)
        if rank == 0:
            backbones = {"random network": untrained, "student": student.network.backbone, "teacher": teacher.teacher.backbone}
            report(options, run, data, backbones, device)


def report(options, run, data, backbones, device):
    """Scores of student and teacher beside two controls, the random network and the raw pixels; loss, entropies, attention."""
    rows = {name: scores(backbone, data, embed(backbone, data.test, device), device) for name, backbone in backbones.items()}
    if options.backbone == "vit":
        for name, backbone in backbones.items():
            rows[name] |= attention_jaccard(backbone.encoder, data, device)
    pixels = knn_score(nn.Flatten(), data)
    suffixes = {"random network": "before", "student": "after", "teacher": "teacher"}
    run.finish(knn_pixels=pixels, **{f"{k}_{suffixes[name]}": v for name, row in rows.items() for k, v in row.items()})
    if rows["student"]:
        print(score_table(data, pixels, rows))
    print(loss_curve(options.out))
    if any("entropy" in line for line in read_log(options.out)):
        print(loss_curve(options.out, (*REPORT.values(), "uniform"), file="collapse.png", y_label="nats"))
    if options.backbone == "vit":
        print(save_picture(attention_picture(options, data, backbones, device), options.out / "attention.png"))


def attention_picture(options, data, backbones, device):
    """Eight pictures and their class tokens' masks of 60 % of the attention: of the student, and, on the right, of the random network."""
    sheets, images = [], data.test[:8]
    for name in ("student", "random network"):
        weights = embed(Looking(backbones[name].encoder), images, device)
        sheets.append(attention_heads(images, weights, attention_masks(weights, 0.6), options.patch, alone=True))
    return torch.cat(sheets, dim=2)


if __name__ == "__main__":
    main()
