"""DINO's collapse study: what sharpening, centring and the teacher's running mean are each good for (Caron et al. 2021, fig. 7).

    python examples/collapse.py                                    four networks on generated pictures, about 30 CPU seconds
    python examples/collapse.py --arms both student --steps 300    some of them, longer; every option of dino.py is one here
    python examples/collapse.py --demo                             over the last demonstration, in runs/demo/collapse

Expect, 80 steps, means of seeds 0, 1, 2 over the last ten steps; log 256 = 5.545 is uniform:
                              entropy   of the mean target   divergence   information
    sharpening alone             0.11                 0.53         0.22          0.42       one target for nearly all pictures
    centring alone               5.54                 5.55         0.00          0.00       the uniform target for all
    both                         4.15                 4.93         0.50          0.79
    both, teacher = student      2.86                 3.49         1.65          0.63       from one collapse into the next
"""

import argparse
import dataclasses
from statistics import fmean

import torch

import dino
from common import Run, load_data, processes, read_log
from sslkit.modules import MomentumEncoder
from sslkit.plots import curve_panels

# The teacher of a short run has to follow its student sooner than the 0.99 of dino.py.
SETTING = "--data scenes --size 32 --steps 80 --batch 64 --crops 2+4 --prototypes 256 --base-momentum 0.97 --lr 3e-3 --watch 1"
ARMS = {
    "sharpening": ("sharpening alone", ["--center-momentum", "1"]),
    "centring": ("centring alone", ["--teacher-temperature", "1"]),
    "both": ("both", []),
    "student": ("both, teacher = student", ["--momentum", "none"]),
}
NUMBERS = {"entropy": "entropy", "mean_entropy": "of the mean target", "divergence": "divergence", "information": "information"}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="All options of dino.py are taken as well.")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--demo", action="store_true", help="over the last demonstration, in runs/demo/collapse")
    chosen, rest = parser.parse_known_args(arguments)
    out = ["--out", "runs/demo/collapse", "--overwrite", "--threads", "1"] if chosen.demo else ["--out", "runs/collapse"]
    options = {arm: dino.parse([*SETTING.split(), *out, *rest, *ARMS[arm][1]]) for arm in chosen.arms}
    first = options[chosen.arms[0]]
    if first.loss == "mse" or first.watch > first.steps:
        parser.error(f"collapse: got --loss {first.loss} --watch {first.watch} --steps {first.steps}; expected targets that are looked at. "
                     "To mend: pass --loss ce, and --watch up to --steps")  # fmt: skip
    return chosen.arms, options


def main(arguments=None):
    arms, options = parse(arguments)
    first = options[arms[0]]
    if first.threads:
        torch.set_num_threads(first.threads)
    with processes() as (group, rank, device):
        data = dataclasses.replace(load_data(first.data, first.size), probe_labels=None, test_labels=None)  # no scores on the way
        whole, logs = Run(first, rank), {}
        for arm in arms:
            own = argparse.Namespace(**vars(options[arm]) | {"out": first.out / arm})
            if rank == 0:
                print(ARMS[arm][0], flush=True)
            run = Run(own, rank)
            student = dino.build(own, data.train.shape[1], device)
            dino.train(own, run, data, student, MomentumEncoder(student.network, buffers="own").to(device), group, device)
            logs[arm] = [line for line in read_log(own.out) if "entropy" in line]
        if rank == 0:
            report(first, whole, logs)


def report(options, run, logs):
    """Means over the last ten looks, of information over all as well, and the two panels of the figure."""
    means = {arm: {name: fmean(line[name] for line in log[-10:]) for name in NUMBERS} for arm, log in logs.items()}
    for arm, log in logs.items():
        means[arm]["information_of_all"] = fmean(line["information"] for line in log)
    run.finish(**{f"{arm}_{name}": mean for arm, row in means.items() for name, mean in row.items()})
    uniform = f"log {options.prototypes}"
    print(f"in nats, of the last looks; {uniform} = {next(iter(logs.values()))[-1]['uniform']:.3f}")
    print(f"{'':24}" + "".join(f"{title:>20}" for title in NUMBERS.values()))
    for arm, row in means.items():
        print(f"{ARMS[arm][0]:24}" + "".join(f"{row[name]:20.3f}" for name in NUMBERS))
    panels = {"entropy of the teacher's targets, in nats": "entropy", "divergence of the student from them, in nats": "divergence"}
    lines = {title: {ARMS[arm][0]: ([line["step"] for line in log], [line[name] for line in log]) for arm, log in logs.items()}
             for title, name in panels.items()}  # fmt: skip
    levels = {next(iter(panels)): {uniform: next(iter(logs.values()))[-1]["uniform"]}}
    print(curve_panels(lines, options.out / "collapse.png", title="Why DINO needs all three", x_label="step", levels=levels))


if __name__ == "__main__":
    main()
