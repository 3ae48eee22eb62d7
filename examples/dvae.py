"""DALL-E's discrete VAE, small: a picture becomes a grid of words, one for 8 x 8 pixels, and comes back (Ramesh et al. 2021, sec. 2.1).

    python examples/dvae.py                                       handwriting
    python examples/dvae.py --data scenes:easy --size 96          generated pictures
    python examples/dvae.py --cache runs/dvae/words.safetensors   also writes the words of the training pictures, for beit.py --tokens
    torchrun --nproc-per-node 2 examples/dvae.py                  as many processes as you have GPUs

Expect on handwriting, 400 steps, 1 CPU minute, seed 0: 78 % of 256 words are used on the test pictures, as evenly as 86 would be, and what
comes back of 200 of them explains 97.7 % of the variance. The schedules are the paper's cosines, stretched to the steps there are; with its
last temperature, 1/16, and its weight of the divergence, 6.6, only 38 words were used after 240 steps: hence a warmer end, a larger weight.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import Run, batch_of, floats, load_data, loss_curve, processes, run_options, set_rate, share_of, wrong
from sslkit.augmentations import Compose, HorizontalFlip, RandomResizedCrop
from sslkit.distributed import global_mean
from sslkit.plots import contact_sheet, save_picture
from sslkit.schedules import cosine
from sslkit.targets import DVAE


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=400, out="runs/dvae")
    parser.set_defaults(data="digits", size=64, batch=32)
    parser.add_argument("--hidden", type=int, default=16, help="channels of the first group; 256 in the paper")
    parser.add_argument("--vocabulary", type=int, default=256, help="number of words; 8192 in the paper")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks a group; 2 in the paper")
    parser.add_argument("--kl", type=float, default=50.0, help="weight of the divergence from equal use of all words; 6.6 in the paper")
    parser.add_argument("--temperature", type=float, default=1 / 4, help="of the relaxation at the end; it begins at 1")
    parser.add_argument("--crop", type=float, default=0.6, help="smallest share of the picture that is shown")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=False, help="not for writing, where it makes another sign")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--cache", type=Path, help="safetensors file for the words of the training pictures, whole and not mirrored")
    return parser.parse_args(arguments)


class Terms(nn.Module):
    """Both terms of the loss as a forward pass, which is what several processes and a compiler wrap."""

    def __init__(self, dvae):
        super().__init__()
        self.dvae = dvae

    def forward(self, images, temperature, draw):
        return tuple(self.dvae.terms(images, temperature=temperature, **draw))


def build(options, data, device):
    if options.bf16:
        raise wrong("--bf16", given="it", expected="float32: a rounded logit is another word", mend="leave it out")
    if data.train.shape[1] != 3:
        raise wrong("--data", given=f"pictures of {data.train.shape[1]} channels", expected="red, green and blue", mend="choose others")
    torch.manual_seed(options.seed)
    dvae = DVAE(options.hidden, options.vocabulary, 2 * options.hidden, options.blocks)
    return dvae.to(device, memory_format=torch.channels_last)  # measured on a CPU: 1.4 times as fast


def train(options, run, data, dvae, group, device):
    """The algorithm; `dvae` is trained in place."""
    view = Compose(RandomResizedCrop(options.size, scale=(options.crop, 1.0)), HorizontalFlip(0.5 if options.flip else 0.0))
    optimizer = torch.optim.AdamW(dvae.parameters(), weight_decay=options.weight_decay)
    network = Terms(dvae) if group is None else DistributedDataParallel(Terms(dvae), process_group=group)
    network = torch.compile(network) if options.compile else network
    for step in run.progress({"model": dvae, "optimizer": optimizer}, len(data.train)):
        epoch, batch = batch_of(step, len(data.train), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        # first the words are to spread over the vocabulary, then to become sharp
        kl = cosine(step, base=0.0, final=options.kl, steps=max(1, run.steps // 10))
        temperature = cosine(step, base=1.0, final=options.temperature, steps=max(1, run.steps * 8 // 10))
        total = torch.zeros(2, device=device)
        for part in batch.tensor_split(options.accumulate):
            indices = share_of(part, group)
            draw = {"indices": indices.to(device), "seed": options.seed, "epoch": epoch}
            images = view(floats(data.train[indices]).to(device), **draw).contiguous(memory_format=torch.channels_last)
            terms = network(images, temperature, draw)
            reconstruction, divergence = (global_mean(term * len(indices), len(batch), group) for term in terms)
            (reconstruction + kl / (3 * 8**2) * divergence).backward()  # numbers of the picture that share a word
            total += torch.stack([reconstruction, divergence]).detach()
        optimizer.step()
        optimizer.zero_grad()
        reconstruction, divergence = total.tolist()
        loss = reconstruction + kl / (3 * 8**2) * divergence
        run.write(step + 1, loss=loss, reconstruction=reconstruction, divergence=divergence, kl=kl, temperature=temperature)
        if run.rank == 0 and (step + 1) % max(1, run.steps // 10) == 0:
            run.bar.set_postfix(loss=f"{loss:.3f}", words=f"{len(words_of(dvae, data.test[:200], device).unique())}")


def words_of(dvae, pictures, device):
    """The words of all pictures, int64 [pictures, h, w]."""
    parts = (floats(part).to(device, memory_format=torch.channels_last) for part in pictures.split(256))
    return torch.cat([dvae.tokens(part).cpu() for part in parts])


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes() as (group, rank, device):
        run = Run(options, rank)
        data = load_data(options.data, options.size)
        dvae = build(options, data, device)
        train(options, run, data, dvae, group, device)
        if rank == 0:
            report(options, run, data, dvae, device)


@torch.no_grad()
def report(options, run, data, dvae, device):
    """How the vocabulary is used on the test pictures, and what comes back of them."""
    words = words_of(dvae, data.test, device)
    share = words.flatten().bincount(minlength=options.vocabulary) / words.numel()
    used, perplexity = 100 * (share > 0).float().mean().item(), torch.special.entr(share).sum().exp().item()
    images = floats(data.test[:200])
    painted = dvae.decode(words[: len(images)].to(device)).cpu()
    images = images[..., : painted.shape[-2], : painted.shape[-1]]
    explained = 100 * (1 - (painted - images).square().mean() / images.var()).item()
    run.finish(code_usage=used, perplexity=perplexity, explained=explained)
    print(f"{used:.0f} % of {options.vocabulary} words are used, as evenly as {perplexity:.0f} would be; "
          f"the pictures that come back explain {explained:.1f} % of the variance")  # fmt: skip
    pairs = torch.stack([images[:16], painted[:16]], dim=1).flatten(0, 1)
    sheet = contact_sheet(pairs, columns=8, titles=["original", "from words"] * (len(pairs) // 2))
    print(save_picture(sheet, options.out / "reconstruction.png"))
    print(loss_curve(options.out, ("reconstruction", "divergence"), y_label="a number of the picture; a word"))
    if options.cache:
        found = words_of(dvae, data.train, device)
        about = {"data": options.data, "size": str(options.size), "vocabulary": str(options.vocabulary)}
        options.cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"words": found.to(torch.int16 if options.vocabulary <= 2**15 else torch.int32)}, options.cache, metadata=about)
        print(options.cache)


if __name__ == "__main__":
    main()
