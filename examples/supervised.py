"""The control: the same networks and pictures, trained with labels.

    python examples/supervised.py                              ConvNet on generated pictures
    python examples/supervised.py --backbone vit --patch 8     ViT, the one of dino.py
    python examples/supervised.py --data digits --size 16 --labels 100 --no-flip     handwriting, 10 labels a digit

Expect on the generated pictures, 8000 labels, 70 CPU seconds, seed 0: accuracy 91.4 % (chance 8.3). On handwriting with
100 labels, 150 steps, --batch 100: 94.0 % (chance 10).
"""

import argparse

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Pooled,
    Run,
    attention_jaccard,
    batch_of,
    embed,
    floats,
    knn_score,
    labelled,
    load_data,
    processes,
    run_options,
    set_rate,
    share_of,
)
from sslkit.augmentations import supervised
from sslkit.backbones import ViT, convnet_small
from sslkit.distributed import global_mean
from sslkit.evaluation import top_accuracy


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=400, out="runs/supervised")
    parser.add_argument("--backbone", choices=["convnet", "vit"], default="convnet")
    parser.add_argument("--patch", type=int, default=4, help="side of the ViT's patches")
    parser.add_argument("--heads", type=int, default=3, help="of its attention")
    parser.add_argument("--labels", type=float, default=1.0, help="labels used, evenly over the classes: a share, or a number above 1")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--crop", type=float, default=0.6, help="smallest share of the picture that is shown")
    parser.add_argument("--no-flip", action="store_true", help="for writing, where a mirrored sign is another sign")
    return parser.parse_args(arguments)


def build(options, channels):
    """The backbone without a classifier: images -> features; `dim` is their number."""
    if options.backbone == "convnet":
        return convnet_small(channels=channels)
    return Pooled(ViT(options.size, options.patch, 96, 4, options.heads, channels=channels, init="dino"), "cls")


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        used = labelled(data, options.labels, options.seed)
        torch.manual_seed(options.seed)
        backbone = build(options, data.train.shape[1])
        classes = int(data.train_labels.max()) + 1
        model = nn.Sequential(backbone, nn.Linear(backbone.dim, classes)).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=options.weight_decay)
        view = supervised(options.size, scale=(options.crop, 1.0), flip=0.0 if options.no_flip else 0.5)
        network = model if group is None else DistributedDataParallel(model, process_group=group)
        network = torch.compile(network) if options.compile else network
        for step in run.progress({"model": model, "optimizer": optimizer}, max(len(used), options.batch)):
            epoch, batch = batch_of(step, len(used), min(options.batch, len(used)), options.seed)
            set_rate(optimizer, step, run.steps, options.lr)
            total, rows = 0.0, len(batch)
            for part in used[batch].tensor_split(options.accumulate):
                indices = share_of(part, group)
                images = view(floats(data.train[indices]).to(device), indices=indices.to(device), seed=options.seed, epoch=epoch)
                with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                    logits = network(images.contiguous(memory_format=torch.channels_last)).float()
                labels = data.train_labels[indices].to(device)
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=options.smoothing, reduction="sum")
                loss = global_mean(loss, rows, group)  # of the whole batch, whatever part of it this process holds
                loss.backward()
                total += loss.item()
            optimizer.step()
            optimizer.zero_grad()
            run.write(step + 1, loss=total)
        if rank == 0:
            accuracy = top_accuracy(embed(model, data.test, device), data.test_labels).top1
            knn = knn_score(backbone, data, device=device)
            looked = attention_jaccard(backbone.encoder, data, device) if options.backbone == "vit" else {}
            run.finish(labels=len(used), accuracy=accuracy, knn=knn, **looked)
            print(f"{len(used)} labels: accuracy {accuracy:.1f} %, k-NN on the features {knn:.1f} %; chance {100 / classes:.1f} %")
            for name, value in looked.items():
                print(f"{name} of attention and object {value:.1f} %")


if __name__ == "__main__":
    main()
