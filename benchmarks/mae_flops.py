"""What leaving hidden patches out of the encoder saves: operations at ViT-L/16 and, measured, a training step at ViT-B/16.

Table 1 (c) of MAE counts encoder and decoder: 3.3x for an encoder that sees a mask token in the place of every hidden patch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Report, command, compare
from sslkit.backbones import MAE, vit_base, vit_large
from sslkit.losses import masked_mse
from sslkit.maskers import RandomMasker
from sslkit.targets import normalized_pixels

BATCH = 4


def forms(mae: MAE, batch: int, device: str) -> tuple[dict[str, Callable[[torch.Tensor], Any]], torch.Tensor]:
    """The two encoders and the two models, each images -> its output, at 75 %; and the mask."""
    grid, encoder = mae.encoder.base, mae.encoder
    mask = RandomMasker(0.75)(batch, grid, device=device)
    everything = RandomMasker(0.0)(batch, grid, device=device)
    token = torch.zeros(encoder.dim, device=device, requires_grad=True)
    return {
        "encoder, visible patches": lambda images: encoder(images, keep=mask),
        "encoder, mask tokens": lambda images: encoder(images, replace=mask, mask_token=token),
        "model, visible patches": lambda images: mae(images, mask),
        "model, mask tokens": lambda images: mae.decode(encoder(images, replace=mask, mask_token=token), everything),
    }, mask.mask


def flops(call: Callable[[], Any]) -> int:
    """Operations of a forward pass by torch's counter: two for a multiplication and addition, of matrix products alone."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def flops_by_hand(tokens: int, dim: int, depth: int) -> int:
    """Blocks of a transformer: a token needs 24 dim**2 for q, k, v, output and perceptron, 4 tokens * dim for attention's two products."""
    return depth * tokens * (24 * dim**2 + 4 * tokens * dim)


def counts() -> dict[str, int]:
    """Operations for one picture at ViT-L/16, 224 x 224, decoder of 8 blocks of 512. Nothing is computed: the tensors are on `meta`."""
    with torch.device("meta"):
        mae = MAE(vit_large(positions="sincos"))
        images = torch.zeros(1, 3, 224, 224)
        calls, _ = forms(mae, 1, "meta")
        return {name: flops(lambda call=call: call(images)) for name, call in calls.items()}


def run(rounds: int = 5) -> Report:
    torch.manual_seed(0)
    mae, images = MAE(vit_base(positions="sincos", init="mae")), torch.rand(BATCH, 3, 224, 224)
    calls, hidden = forms(mae, BATCH, "cpu")
    target = normalized_pixels(images, 16)

    def step(name: str) -> Callable[[], None]:
        def call() -> None:
            mae.zero_grad()
            masked_mse(calls[name](images), target, hidden).backward()

        return call

    names = ("model, visible patches", "model, mask tokens")
    title = f"MAE's step, forward + backward, {BATCH} x 224 x 224, ViT-B/16, decoder of 8 blocks of 512, 75 % hidden"
    report = compare("mae_flops", {name: step(name) for name in names}, rounds=rounds, reference=names[1], agree=None, title=title)
    found = counts()
    notes = (
        "the two are different models, so no agreement is checked",
        "ViT-L/16, forward, GFLOP a picture: " + ", ".join(f"{name} {n / 1e9:.1f}" for name, n in found.items()),
        f"with mask tokens {found['model, mask tokens'] / found['model, visible patches']:.2f}x with the decoder (the paper: 3.3x), "
        f"{found['encoder, mask tokens'] / found['encoder, visible patches']:.2f}x for the encoder alone",
    )
    return replace(report, notes=notes)


main = command(__doc__, run, rounds=5)

if __name__ == "__main__":
    main()
