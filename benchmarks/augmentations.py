"""Time of the SimCLR augmentations against torchvision, sample by sample: `python benchmarks/augmentations.py [--rounds 5]`.

One thread, A B A B, medians with quartiles, in milliseconds for the whole batch and all its views. torchvision draws once
per call, so parameters per sample mean a call per sample; it gets uint8, its fastest form. Prints JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torchvision.transforms import InterpolationMode, v2

from sslkit.augmentations import MultiCrop, simclr


def torchvision_simclr(size: int, scale: tuple[float, float], jitter: tuple[float, ...], blur: float) -> v2.Transform:
    """The same chain out of torchvision's parts, for one uint8 image [channels, height, width]."""
    steps = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*jitter)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(2 * (size // 10 // 2) + 1, (0.1, 2.0))], p=blur))
    return v2.Compose(steps)


def per_sample(transform: v2.Transform, images: torch.Tensor) -> list[torch.Tensor]:
    return [torch.stack([transform(image) for image in images]) for _ in range(2)]


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def compare(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Each in turn, `rounds` times after one warm-up: what disturbs the machine disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took = milliseconds(run)
            if turn:
                times[name].append(took)
    result = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": round(middle, 2), "q1": round(low, 2), "q3": round(high, 2), "best": round(min(values), 2)}
    return result


def measure(batch: int, picture: tuple[int, int], ours: MultiCrop, theirs: v2.Transform, rounds: int) -> dict[str, object]:
    levels = torch.randint(0, 256, (batch, 3, *picture), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = levels.float() / 255
    times = compare(
        {
            "sslkit uint8": lambda: ours(levels),
            "torchvision.v2 uint8, per sample": lambda: per_sample(theirs, levels),
            "sslkit float32": lambda: ours(values),
        },
        rounds,
    )
    mine = times["sslkit uint8"]["median"]
    return {
        "batch": batch,
        "picture": picture,
        "milliseconds": times,
        "pairs of views per second": {name: round(batch / t["median"] * 1e3, 1) for name, t in times.items()},
        "torchvision / sslkit": round(times["torchvision.v2 uint8, per sample"]["median"] / mine, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small, large = (0.4, 0.4, 0.4, 0.5), (0.8, 0.8, 0.8, 0.2)
    report = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version()},
        "256 x 32 x 32, two views, no blur": measure(
            256, (32, 32), simclr(32, scale=(0.4, 1), jitter=small, blur=0), torchvision_simclr(32, (0.4, 1), small, 0), rounds
        ),
        "64 x 224 x 224, two views": measure(64, (224, 224), simclr(224), torchvision_simclr(224, (0.08, 1), large, 0.5), rounds),
        "16 x 375 x 500, two views": measure(16, (375, 500), simclr(224), torchvision_simclr(224, (0.08, 1), large, 0.5), rounds),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
