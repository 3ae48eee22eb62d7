"""What looc.py asks of the features and of each head's space: the class, the quarter turn of a picture, the hue of its object."""

import torch

from common import embed, scores
from sslkit.augmentations import QuarterTurn
from sslkit.datasets import ORIENTED, Scenes
from sslkit.evaluation import few_shot, linear_probe

TITLES = {"linear": "class", "rotation": "quarter turn", "oriented": "of shapes that show it", "hue": "hue"}


def hues_of(options):
    """An eighth of the colour circle for the object of each probe and test picture, if the generator knows it."""
    kind, _, preset = options.data.partition(":")
    parts = [Scenes(split, options.size, preset=preset or "default") for split in ("probe", "test")] if kind == "scenes" else []
    return [part.batch(torch.arange(len(part))).hue_bin for part in parts] or [None, None]


def measure(features, spaces, data, hues, device=None, names=()):
    """Scores of the class, and linear probes in percent: of the features, "rotation", and of each head's space, "rotation_head_color".

    features: pictures -> [n, dim]. spaces: pictures -> [n, dim + heads * width], the features, then the space of each of `names`; not asked
    where there are none. Chance is 25 for the quarter turn, 12.5 for the hue. "oriented" counts the turns of shapes that show each of them;
    "shots_5" and "shots_10" are a probe with so many labels a class, the mean of ten draws, its 95 % interval +- "shots_5_interval".
    """
    test, turn, finite = embed(features, data.test, device), QuarterTurn(), True
    found, asked = scores(features, data, test, device), {"linear": [], "rotation": [], "hue": []}
    for part, (images, labels) in enumerate(((data.probe, data.probe_labels), (data.test, data.test_labels))):
        drawn = turn.sample(len(images), images.shape[2:], indices=torch.arange(len(images)), seed=part)
        seen = [embed(spaces if names else features, each, device) for each in (images, turn.apply(images, drawn))]
        finite = finite and all(bool(x.isfinite().all()) for x in seen)
        upright, turned = seen if finite else (torch.zeros_like(x) for x in seen)  # a run that diverged is a result, too
        for task, x, answers in (("linear", upright, labels), ("rotation", turned, drawn["turns"]), ("hue", upright, hues[part])):
            asked[task] += [x, answers]
    first, width = test.shape[1], (upright.shape[1] - test.shape[1]) // max(1, len(names))
    columns = {"": slice(first), **{f"_head_{name}": slice(first + i * width, first + (i + 1) * width) for i, name in enumerate(names)}}
    for task, (x, y, test_x, test_y) in asked.items():
        for space, own in columns.items() if y is not None else ():
            sets = x[:, own], y, test_x[:, own], test_y
            if task + space != "linear":  # which `scores` found
                fit = linear_probe(*sets)
                found[task + space] = fit.top1
            if task == "rotation" and hues[0] is not None:  # generated pictures: their shapes are known
                right = (fit.predict(sets[2]) == test_y)[torch.isin(data.test_labels, torch.tensor(ORIENTED))]
                found["oriented" + space] = 100 * right.float().mean().item()
            for shots in (5, 10) if task + space == "linear" and int(y.bincount().min()) >= 10 else ():
                few = few_shot(*sets, shots=shots, episodes=10, generator=torch.Generator().manual_seed(0)).top1
                found |= {f"shots_{shots}": few.mean, f"shots_{shots}_interval": few.high - few.mean}
    return found if finite else dict.fromkeys(found, float("nan"))


def space_table(controls, found, after, names):
    """The probes of two networks, and of the second's heads, a row each; then few labels."""
    titles = {task: title for task, title in TITLES.items() if task in found}
    lines = ["linear probes in percent, chance of a quarter turn 25.0" + (", of a hue 12.5" if "hue" in found else "")]
    lines.append(f"{'':22}" + "".join(f"{title:>{len(title) + 3}}" for title in titles.values()))
    rows = {"random network": controls, after: found, **{f"  head {n}": {t: found[f"{t}_head_{n}"] for t in titles} for n in names}}
    lines += [f"{row:22}" + "".join(f"{n[task]:{len(title) + 3}.1f}" for task, title in titles.items()) for row, n in rows.items()]
    lines += [f"{n} labels a class, ten draws: {found[f'shots_{n}']:.1f} +- {found[f'shots_{n}_interval']:.1f} % (95 % interval)"
              for n in (5, 10) if f"shots_{n}" in found]  # fmt: skip
    return "\n".join(lines)
