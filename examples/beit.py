"""BEiT: blocks of patches are hidden, and the visual words at their places are predicted (Bao et al. 2022, fig. 1).

    python examples/dvae.py                                                handwriting: first a tokenizer
    python examples/beit.py --dvae runs/dvae
    python examples/beit.py --dvae runs/dvae --mask random                 rows of the paper's table 4
    python examples/beit.py --target pixels
    python examples/beit.py --dvae runs/dvae --mask none --recover all
    python examples/beit.py --openai encoder.pkl decoder.pkl --data folder:PHOTOS --size 224 --patch 16 --flip --crop 0.08 --jitter 0.4
    python examples/beit.py --tokens runs/dvae/words.safetensors --augment none    words from disk, where dvae.py --cache put them
    torchrun --nproc-per-node 2 examples/beit.py --dvae runs/dvae          as many processes as you have GPUs
    python -m benchmarks.claims beit                                       the paper's table 4, all rows, seeds 0, 1, 2: docs/claims.md

Expect on handwriting, 400 steps, 4 CPU minutes after 1 for the tokenizer, mean of seeds 0, 1, 2: k-NN 37.9 -> 51.9 % (69.0, 40.6, 46.0),
linear 48.5 -> 70.3 %, linear with five labels a class 29.7 -> 42.9 %; of pixels 55.1, 70.5, 45.1 %; with random masks 36.6, 49.9, 29.1 %.
Raw pixels, which fill the picture here, reach 98.2 % by k-NN.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import (
    Pooled,
    Run,
    Words,
    batch_of,
    centred,
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
    wrong,
)
from sslkit.augmentations import beit
from sslkit.backbones import ViT
from sslkit.distributed import global_mean
from sslkit.kernels import gather_tokens
from sslkit.losses import masked_cross_entropy, masked_mse
from sslkit.maskers import BlockwiseMasker, RandomMasker
from sslkit.optim import layer_decay_groups
from sslkit.patches import unpatchify
from sslkit.plots import attention_sheet, reconstruction_sheet, save_picture
from sslkit.targets import normalized_pixels, unnormalized_pixels


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=400, out="runs/beit")
    parser.set_defaults(data="digits", size=32, batch=128)
    parser.add_argument("--patch", type=int, default=4, help="side of a patch in pixels; the tokenizer sees each as 8 x 8 of its own")
    parser.add_argument("--dim", type=int, default=96, help="width, 32 a head")
    parser.add_argument("--depth", type=int, default=4, help="blocks")
    parser.add_argument("--target", choices=["tokens", "pixels"], default="tokens", help="pixels: normalised patch by patch")
    parser.add_argument("--dvae", type=Path, help="for tokens: folder of a run of dvae.py")
    parser.add_argument("--openai", nargs=2, metavar=("ENCODER", "DECODER"), help="for tokens: the released files of DALL-E")
    parser.add_argument(
        "--tokens", type=Path, help="for tokens: a file of dvae.py --cache; it holds whole pictures, so with --augment none"
    )
    parser.add_argument("--mask", choices=["blockwise", "random", "none"], default="blockwise")
    parser.add_argument("--ratio", type=float, default=0.4, help="share of the patches that is hidden")
    parser.add_argument("--recover", choices=["hidden", "all"], default="hidden", help="at which patches the target is predicted")
    parser.add_argument("--augment", choices=["beit", "none"], default="beit", help="none: whole pictures")
    parser.add_argument("--crop", type=float, default=0.6, help="smallest share of the picture that is shown; 0.08 in the paper")
    parser.add_argument("--jitter", type=float, default=0.0, help="of brightness, contrast and saturation; 0.4 in the paper")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=False, help="not for writing, where it makes another sign")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    return parser.parse_args(arguments)


class BEiT(nn.Module):
    """Hidden patches become a token [M]; positions are a bias of the attention alone; a linear head predicts what was there."""

    def __init__(self, encoder, values):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, values)
        self.token = nn.Parameter(torch.empty(1, 1, encoder.dim))
        for weight in (self.token, self.head.weight):
            nn.init.trunc_normal_(weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images, mask, ids):
        tokens = self.encoder(images, replace=mask, mask_token=self.token)
        return self.head(gather_tokens(tokens.patches, ids))  # [batch, recovered, values]


class Target(nn.Module):
    """What stands at the tokens `ids`: words of the second view, or from disk, or the pixels of the first."""

    def __init__(self, options, data, grid):
        super().__init__()
        self.kind, self.patch, self.grid, self.words, self.cached = options.target, options.patch, grid, None, None
        sources = [f"--{name}" for name in ("dvae", "openai", "tokens") if getattr(options, name)]
        if self.kind == "tokens" and len(sources) != 1:
            raise wrong("--target tokens", given=" and ".join(sources) or "no tokenizer", expected="one of --dvae, --openai and --tokens",
                        mend="train one by dvae.py, then pass --dvae runs/dvae")  # fmt: skip
        if self.kind == "pixels":
            self.values = data.train.shape[1] * self.patch**2
        elif options.tokens:
            self.cached, self.values = read_cache(options, len(data.train), grid)
        else:
            self.words = Words(options.dvae, data.train.shape[1], options.openai)
            self.values = self.words.values

    def forward(self, images, second, indices, ids):
        if self.kind == "pixels":
            return normalized_pixels(images, self.patch, ids=ids)
        if self.words:
            return self.words(second, self.grid, ids)
        return self.cached[indices].flatten(1).to(ids.device, torch.int64).gather(1, ids)

    def loss(self, prediction, target):
        return masked_mse(prediction, target) if self.kind == "pixels" else masked_cross_entropy(prediction, target)

    def paint(self, prediction, images, ids):
        """Pictures: what is predicted at `ids`, the truth elsewhere."""
        if self.kind == "pixels":
            full = normalized_pixels(images, self.patch).scatter(1, ids[..., None].expand_as(prediction), prediction)
            return unpatchify(unnormalized_pixels(full, images, self.patch), self.grid, self.patch)
        words = self.words(images, self.grid).flatten(1).scatter(1, ids, prediction.argmax(dim=-1))
        return self.words.paint(words.unflatten(1, self.grid), images.shape[-2:])


def read_cache(options, pictures, grid):
    """Words [pictures, h, w] and the size of their vocabulary, from a file of dvae.py --cache."""
    if options.augment != "none":
        raise wrong("--tokens", given=f"--augment {options.augment}", expected="--augment none: the file has the words of whole pictures",
                    mend="pass --augment none, or --dvae in the place of --tokens")  # fmt: skip
    with safe_open(options.tokens, "pt") as file:
        words, about = file.get_tensor("words"), file.metadata() or {}
    found = {"data": about.get("data"), "pictures": words.shape[0], "grid": tuple(words.shape[1:])}
    asked = {"data": options.data, "pictures": pictures, "grid": grid}
    if found != asked:
        raise wrong("--tokens", given=f"a file of {found}", expected=f"{asked}",
                    mend=f"write it by dvae.py --data {options.data} --size {8 * grid[0]} --cache {options.tokens}")  # fmt: skip
    return words, int(about["vocabulary"])


def build(options, data, device):
    """Model, target and masker."""
    if options.dim < 32 or options.dim % 32:
        raise wrong("--dim", given=str(options.dim), expected="a multiple of 32", mend="pass 96")
    if options.mask == "none" and options.recover == "hidden":
        raise wrong("--recover", given="hidden with --mask none", expected="all: nothing is hidden", mend="pass --recover all")
    torch.manual_seed(options.seed)
    encoder = ViT(options.size, options.patch, options.dim, options.depth, options.dim // 32, channels=data.train.shape[1],
                  positions="relative", layer_scale=0.1, init="beit")  # fmt: skip
    target = Target(options, data, encoder.base)
    count = 0 if options.mask == "none" else round(options.ratio * math.prod(encoder.base))
    least = max(1, round(16 / 196 * math.prod(encoder.base)))  # of a block, in proportion to the paper's
    masker = BlockwiseMasker(count=count, min_patches=least) if options.mask == "blockwise" else RandomMasker(count=count)
    return BEiT(encoder, target.values).to(device), target.to(device), masker


def views(options, grid):
    """Pictures -> the view of the model, and that of the tokenizer, at 8 pixels a token."""
    if options.augment == "none":
        return lambda images, **draw: (images, images)
    second = tuple(8 * side for side in grid)
    return beit(options.size, second, scale=(options.crop, 1.0), jitter=options.jitter, flip=0.5 if options.flip else 0.0)


def train(options, run, data, model, target, masker, group, device):
    """The algorithm; `model` is trained in place."""
    grid = model.encoder.base
    view, everything = views(options, grid), torch.arange(math.prod(grid), device=device)
    optimizer = torch.optim.AdamW(layer_decay_groups(model, weight_decay=options.weight_decay, decay=1.0), betas=(0.9, 0.999))
    network = model if group is None else DistributedDataParallel(model, process_group=group)
    network = torch.compile(network) if options.compile else network
    for step in run.progress({"model": model, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        total = torch.zeros(2, device=device)
        for part in batch.tensor_split(options.accumulate):
            indices = share_of(part, group)
            draw = {"indices": indices.to(device), "seed": options.seed, "epoch": epoch}
            images, second = view(floats(data.train[indices]).to(device), **draw)
            mask = masker.for_indices(grid=grid, **draw)
            ids = mask.ids_hidden if options.recover == "hidden" else everything.expand(len(indices), -1)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                prediction = network(centred(images), mask, ids)
            truth = target(images, second, indices, ids)
            loss = global_mean(target.loss(prediction, truth) * len(indices), len(batch), group)  # all hide the same number
            loss.backward()
            total[0] += loss.detach()
            if target.kind == "tokens":
                hits = (prediction.argmax(dim=-1) == truth) & mask.mask.gather(1, ids)  # at hidden patches
                total[1] += global_mean(hits.sum(), len(batch) * mask.ids_hidden.shape[1], group)
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        loss, accuracy = total.tolist()
        run.write(step + 1, loss=loss, **({"mlm_acc": 100 * accuracy} if target.kind == "tokens" else {}))
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{loss:.3f}", knn=f"{knn_score(Pooled(model.encoder, 'mean'), data, 500, device):.1f} %")


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
    """Scores of the frozen features beside two controls, the random network and the raw pixels; what is predicted; who looks where."""
    encoder = Pooled(model.encoder, "mean")
    found, pixels = scores(encoder, data, embed(encoder, data.test, device), device), knn_score(nn.Flatten(), data)
    run.finish(knn_pixels=pixels, **{f"{k}_before": v for k, v in controls.items()}, **{f"{k}_after": v for k, v in found.items()})
    if found:
        print(score_table(data, pixels, {"random network": controls, f"after {run.steps} steps": found}))
    for name, picture in pictures(options, data, model, target, masker, device).items():
        print(save_picture(picture, options.out / f"{name}.png"))
    print(loss_curve(options.out))


@torch.no_grad()
def pictures(options, data, model, target, masker, device):
    """Eight pictures: where four tokens look, as in the paper's figure 2; and what is predicted, if there is a way back from the words."""
    grid, images = model.encoder.base, floats(data.test[:8]).to(device)
    rows, columns = ((side // 4, side - 1 - side // 4) for side in grid)
    points = torch.tensor([row * grid[1] + column for row in rows for column in columns])
    attention = model.encoder(centred(images), attention_of=-1).attention
    found = {"attention": attention_sheet(images, attention, points, options.patch)}
    if target.cached is None:
        mask = masker.for_indices(torch.arange(len(images)), grid, seed=options.seed, device=device)
        ids = mask.ids_hidden if options.recover == "hidden" else torch.arange(math.prod(grid), device=device).expand(len(images), -1)
        painted = target.paint(model(centred(images), mask, ids), images, ids)
        found["reconstruction"] = reconstruction_sheet(images, painted, mask.mask, options.patch)
    return found


if __name__ == "__main__":
    main()
