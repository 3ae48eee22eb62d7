"""DeiT: a ViT learns from labels and, by a token of its own, from a ConvNet that was trained before (Touvron et al. 2021, fig. 2).

    python examples/supervised.py --data digits --size 16 --no-flip --labels 100 --batch 100 --steps 150 --out runs/teacher    the teacher
    python examples/deit.py --labels 100 --teacher runs/teacher
    python examples/deit.py --labels 100 --distillation none --out runs/none    rows of the paper's table 3; with a teacher: soft, hard
    python examples/deit.py --labels 100 --teacher runs/teacher --unlabelled --out runs/all     pictures without labels, for the teacher
    python examples/deit.py --labels 100 --teacher runs/teacher24 --unlabelled --init runs/all --size 24 --steps 100 --lr 2e-4 --out runs/24
    torchrun --nproc-per-node 2 examples/deit.py --teacher runs/teacher         as many processes as you have GPUs

Expect on handwriting with 100 labels, 600 steps, 40 CPU seconds, mean of seeds 0, 1, 2, the teacher of the same labels at 94.7 %:
85.9 % without distillation; with the token 87.1 % by both heads, 87.0 by the class head, 87.3 by the distillation head; with pictures
without labels, 70 CPU seconds, 92.0, 91.9 and 92.3 % (chance 10). At size 24, with a teacher of that size, seed 0: 91.8 -> 92.8 %.
A ConvNet knows its own size alone: with the teacher of size 16, which is right for 58 % there, 85.2 %.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms import v2

from common import (
    Run,
    Teacher,
    batch_of,
    centred,
    embed,
    floats,
    labelled,
    load_data,
    loss_curve,
    processes,
    read_checkpoint,
    read_log,
    run_options,
    set_rate,
    share_of,
    wrong,
)
from sslkit.augmentations import supervised
from sslkit.backbones import ViT
from sslkit.counter import mix, stream
from sslkit.distributed import global_mean
from sslkit.evaluation import extract_features, top_accuracy
from sslkit.losses import hard_distillation_loss, soft_distillation_loss
from sslkit.optim import layer_decay_groups


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=600, out="runs/deit")
    parser.set_defaults(data="digits", size=16, batch=64)
    parser.add_argument("--distillation", choices=["none", "soft", "hard", "token"], default="token",
                        help="soft, hard: of the class token; token: hard, of a token and a head of its own")  # fmt: skip
    parser.add_argument("--teacher", type=Path, help="folder of a run of supervised.py with its ConvNet, on any size of these pictures")
    parser.add_argument("--alpha", type=float, help="share of the distillation in the loss; 0.1 for soft and 0.5 else if left out")
    parser.add_argument("--temperature", type=float, default=3.0, help="of soft")
    parser.add_argument("--init", type=Path, help="folder of a run of this example, maybe of another size: its network is trained on")
    parser.add_argument("--patch", type=int, default=4, help="without --init: side of a patch in pixels")
    parser.add_argument("--dim", type=int, default=96, help="without --init: width, 32 a head")
    parser.add_argument("--depth", type=int, default=4, help="without --init: blocks")
    parser.add_argument("--labels", type=float, default=1.0, help="labelled pictures used, evenly over the classes: a share, or a number")
    parser.add_argument(
        "--unlabelled", action="store_true", help="with each batch as many of all pictures, of which the teacher alone speaks"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--drop-path", type=float, default=0.1, help="stochastic depth of the last block")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels, not of the teacher's")
    parser.add_argument("--mixup", type=float, default=0.0, help="alpha of mixup; 0.8 in the paper, 0 leaves it out")
    parser.add_argument("--cutmix", type=float, default=0.0, help="alpha of cutmix, in every other step of mixup; 1 in the paper")
    parser.add_argument("--crop", type=float, default=0.6, help="smallest share of the picture that is shown; 0.08 in the paper")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=False, help="not for writing, where it makes another sign")
    return parser.parse_args(arguments)


class DeiT(nn.Module):
    """Pictures -> logits [batch, heads, classes]: of the class token, and of the distillation token where there is one."""

    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({token: nn.Linear(encoder.dim, classes) for token in encoder.prefix})
        for head in self.heads.values():
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(self, images):
        tokens = self.encoder(centred(images))
        return torch.stack([head(tokens.pooled(token)) for token, head in self.heads.items()], dim=1)


def vit(options, size, channels):
    return ViT(size, options.patch, options.dim, options.depth, options.dim // 32, channels=channels, drop_path=options.drop_path,
               prefix=("cls", "dist") if options.distillation == "token" else ("cls",))  # fmt: skip


def build(options, channels, classes):
    """The student, drawn from the seed or from --init, and the teacher or None."""
    start = read_checkpoint(options.init / "checkpoint.pt") if options.init else None
    if start:
        options.patch, options.dim, options.depth = (start["settings"][name] for name in ("patch", "dim", "depth"))
    torch.manual_seed(options.seed)
    model = DeiT(vit(options, options.size, channels), classes)
    if start:
        before = DeiT(vit(options, start["settings"]["size"], channels), classes)
        weights = start["parts"]["model"]
        own = before.state_dict()
        if weights.keys() != own.keys() or any(weights[name].shape != own[name].shape for name in own):
            raise wrong("--init", given=f"{options.init}", expected=f"a run of deit.py with the tokens of {options.distillation}",
                        mend="pass the --distillation and --data that it was trained with")  # fmt: skip
        before.load_state_dict(weights)
        slots, table = before.encoder.positions_at(model.encoder.base)  # read once on the new grid, then trained there
        model.load_state_dict(weights | {"encoder.pos_embed": torch.cat([slots, table])[None]})
    if options.distillation == "none":
        if options.unlabelled:
            raise wrong("--unlabelled", given="--distillation none", expected="a teacher, who alone speaks of such pictures",
                        mend="pass --distillation token")  # fmt: skip
        return model, None
    teacher = Teacher(options.teacher, channels, classify=True)
    if teacher.values != classes:
        raise wrong("--teacher", given=f"{options.teacher}, of {teacher.values} classes", expected=f"{classes} classes",
                    mend=f"train one by supervised.py --data {options.data}")  # fmt: skip
    return model, teacher


def loss_of(options, logits, labels, taught):
    """(1 - alpha) * cross-entropy of the labelled pictures, which come first, + alpha * distillation; logits [pictures, heads, classes]."""
    base = nn.functional.cross_entropy(logits[: len(labels), 0], labels, label_smoothing=options.smoothing)
    if options.distillation == "none":
        return base
    if options.distillation == "soft":
        alpha = 0.1 if options.alpha is None else options.alpha
        return soft_distillation_loss(logits[:, 0], taught, temperature=options.temperature, base=base, alpha=alpha)
    return hard_distillation_loss(logits[:, -1], taught, base=base, alpha=options.alpha)


def accuracies(model, images, labels, device):
    """Top-1 in percent of every head, and of both together by the sum of their probabilities."""
    logits = embed(model, images, device)  # [pictures, heads, classes]
    answers = {"class": logits[:, 0]}
    if logits.shape[1] == 2:
        answers |= {"distillation": logits[:, 1], "both": logits.softmax(dim=-1).sum(dim=1)}
    return {f"accuracy_{name}": top_accuracy(answer, labels).top1 for name, answer in answers.items()}


def train(options, run, data, used, model, teacher, classes, group, device):
    """The algorithm; `model` is trained in place."""
    view = supervised(options.size, scale=(options.crop, 1.0), flip=0.5 if options.flip else 0.0)
    mixes = [how(alpha=alpha, num_classes=classes) for how, alpha in ((v2.MixUp, options.mixup), (v2.CutMix, options.cutmix)) if alpha]
    optimizer = torch.optim.AdamW(layer_decay_groups(model, weight_decay=options.weight_decay, decay=1.0))
    network = model if group is None else DistributedDataParallel(model, process_group=group)
    network = torch.compile(network) if options.compile else network
    sets = [used, torch.arange(len(data.train))] if options.unlabelled else [used]
    size = min(options.batch, len(used))
    for step in run.progress({"model": model, "optimizer": optimizer}, max(len(used), options.batch)):
        drawn = [batch_of(step, len(ids), size, options.seed) for ids in sets]  # epoch, places in ids
        set_rate(optimizer, step, run.steps, options.lr)
        torch.manual_seed(mix(stream(options.seed, step)) + run.rank)  # of dropped paths and mixed pictures: a resumed run draws the same
        total = 0.0
        for part in range(options.accumulate):
            shown = []
            for ids, (epoch, batch) in zip(sets, drawn, strict=True):
                indices = share_of(ids[batch].tensor_split(options.accumulate)[part], group)
                images = view(floats(data.train[indices]).to(device), indices=indices.to(device), seed=options.seed, epoch=epoch)
                labels = data.train_labels[indices].to(device)
                shown.append(mixes[step % len(mixes)](images, labels) if mixes else (images, labels))
            labels, images = shown[0][1], torch.cat([images for images, _ in shown])  # labels of the labelled pictures alone
            with torch.no_grad():
                taught = teacher.logits(images) if teacher else None
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                logits = network(images).float()
            loss = global_mean(loss_of(options, logits, labels, taught) * len(labels), size, group)
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        told = {}
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            told = accuracies(model, data.test[:500], data.test_labels[:500], device)
            run.bar.set_postfix(loss=f"{total:.3f}", **{name.removeprefix("accuracy_"): f"{value:.1f} %" for name, value in told.items()})
        run.write(step + 1, loss=total, **told)


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        data = load_data(options.data, options.size)
        used = labelled(data, options.labels, options.seed)
        classes = int(data.train_labels.max()) + 1
        model, teacher = (part and part.to(device) for part in build(options, data.train.shape[1], classes))
        run = Run(options, rank)
        train(options, run, data, used, model, teacher, classes, group, device)
        if rank == 0:
            report(options, run, data, used, model, teacher, device)


def report(options, run, data, used, model, teacher, device):
    """Accuracies of the heads and of the teacher on all test pictures; loss, and accuracies on 500 of them, over training."""
    found = accuracies(model, data.test, data.test_labels, device)
    if teacher:
        says = extract_features(lambda images: teacher.logits(floats(images)), data.test, device=device)
        found["accuracy_teacher"] = top_accuracy(says, data.test_labels).top1
    run.finish(labels=len(used), **found)
    words = ", ".join(f"{name.removeprefix('accuracy_')} {value:.1f} %" for name, value in found.items())
    print(f"{options.data}, {len(used)} labels, distillation {options.distillation}: accuracy {words}")
    print(loss_curve(options.out))
    told = [name for name in found if name in read_log(options.out)[-1]]
    print(loss_curve(options.out, told, file="accuracy.png", y_label="accuracy, %"))


if __name__ == "__main__":
    main()
