"""What `Scenes` and `SceneVideos` need to draw a batch, on one thread; the tiles of the backgrounds are made before the clock starts."""

from dataclasses import replace
from functools import partial

from benchmarks.harness import Report, command, compare
from sslkit.datasets import Scenes, SceneVideos

BATCH = {32: 256, 48: 256, 64: 256, 96: 256, 224: 64}
CLIPS = ((32, 8), (48, 8), (64, 16))


def run(rounds: int = 7) -> Report:
    """One job a size; none is compared with another, so the ratios only tell how cost grows."""
    pictures = {f"{n} pictures of {size} x {size}": (n, partial(Scenes("train", size).batch, range(n))) for size, n in BATCH.items()}
    clips = {f"64 clips of {t} x {size} x {size}": (64, partial(SceneVideos("train", size, t).batch, range(64))) for size, t in CLIPS}
    jobs = pictures | clips
    report = compare("scenes", {name: job for name, (_, job) in jobs.items()}, rounds=rounds, reference="256 pictures of 64 x 64",
                     agree=None, title="Generated scenes")  # fmt: skip
    rates = tuple(f"{row.job}: {1000 * jobs[row.job][0] / row.cpu_ms.median:.0f} per CPU second" for row in report.rows)
    return replace(report, notes=(*rates, "jobs differ on purpose, so no agreement is checked"))


main = command(__doc__, run, rounds=7)

if __name__ == "__main__":
    main()
