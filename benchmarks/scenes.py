"""Pictures per second that `Scenes` draws on one thread, and the start-up cost of its backgrounds.

    python benchmarks/scenes.py                one line of JSON per size, about 30 s

Batches of 256, median of several runs; the tile bank is built before the clock starts and timed by itself.
"""

import json
import platform
import statistics
import time

import torch

from sslkit.datasets import Scenes, SceneVideos
from sslkit.datasets._backgrounds import tile_bank

SIZES = (32, 48, 64, 96, 224)


def seconds(work, repeats):
    """Median and spread of `repeats` runs, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times), max(times)


def main():
    torch.set_num_threads(1)
    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
    for size in SIZES:
        tile_bank.cache_clear()  # one of these sizes also serves the objects' textures
        start = time.perf_counter()
        tile_bank(size, 0, 0)
        bank = time.perf_counter() - start
        batch = 256 if size <= 96 else 64
        data = Scenes("train", size)
        middle, best, worst = seconds(lambda data=data, batch=batch: data.batch(range(batch)), repeats=9)
        rates = {"images_per_s": round(batch / middle), "slowest": round(batch / worst), "fastest": round(batch / best)}
        print(json.dumps({"job": "scenes", "size": size, "batch": batch, **rates, "start_up_s": round(bank, 2), **machine}))
    for size, frames in ((32, 8), (48, 8), (64, 16)):
        videos = SceneVideos("train", size, frames)
        middle, best, worst = seconds(lambda videos=videos: videos.batch(range(64)), repeats=5)
        rates = {"clips_per_s": round(64 / middle), "slowest": round(64 / worst), "fastest": round(64 / best)}
        print(json.dumps({"job": "videos", "size": size, "frames": frames, "batch": 64, **rates, **machine}))


if __name__ == "__main__":
    main()
