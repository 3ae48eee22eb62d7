"""What the examples share and no method owns: data, order of batches, processes, checkpoint, log, progress, scores."""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.models import resnet18
from tqdm import tqdm

from sslkit.backbones import convnet_small
from sslkit.counter import permutation
from sslkit.datasets import Folder, Scenes, digits, torchvision_dataset
from sslkit.evaluation import (
    attention_masks,
    extract_features,
    few_shot,
    jaccard,
    knn_classify,
    linear_probe,
    semi_supervised_subset,
)
from sslkit.plots import curves
from sslkit.schedules import cosine
from sslkit.targets import DVAE

FORMAT = "sslkit example, version 1"
PICTURES = ("neighbours.png", "loss.png", "reconstruction.png", "prediction.png", "masks.png", "attention.png", "collapse.png",
            "accuracy.png", "match.png", "match_probe.png", "views.png", "pasted.png", "saliency.png")  # fmt: skip


def wrong(where: str, *, given: str, expected: str, mend: str) -> SystemExit:
    """The library's three-part error, as the last words of a command."""
    return SystemExit(f"{where}: got {given}; expected {expected}. To mend: {mend}.")


# Data


@dataclass(frozen=True)
class Data:
    """Pictures [n, channels, size, size], uint8 or floating in [0, 1]; labels int64 [n] or None. `test` is classified by `probe`.

    test_masks: bool [n, size, size], where the object is, of generated pictures; what is written, of digits.
    """

    train: Tensor
    probe: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    probe_labels: Tensor | None = None
    test_labels: Tensor | None = None
    test_masks: Tensor | None = None


def split_files(
    pixels: Tensor, labels: Tensor | None, paths: Sequence[str], what: str
) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """What was read of files, and its labels: for training, and a fifth for testing. All lie in class folders, or `labels` is None."""
    loose = [] if labels is None else [path for path, label in zip(paths, labels.tolist(), strict=True) if label < 0]
    if loose:
        raise wrong("--data", given=f"{len(loose)} {what} outside the class folders, first {loose[0]}",
                    expected="all or none in subfolders", mend="move them into the folder of their class, or elsewhere")  # fmt: skip
    order = permutation(len(pixels), seed=0, epoch=0)
    held, kept = order[::5], order[torch.arange(len(order)) % 5 != 0]
    train, test = ((pixels[ids], None if labels is None else labels[ids]) for ids in (kept, held))
    return train, test


def load_data(name: str, size: int) -> Data:
    """scenes | scenes:easy | digits | folder:PATH | torchvision:NAME:ROOT. In a folder, subfolders are classes; a fifth is for testing."""
    kind, _, rest = name.partition(":")
    masks = None
    if kind == "scenes" and rest in ("", "easy", "tiny"):
        parts = [Scenes(split=split, size=size, preset=rest or "default") for split in ("train", "probe", "test")]
        batches = [part.batch(torch.arange(len(part))) for part in parts]
        train, probe, test = ((batch.images, batch.labels) for batch in batches)
        masks = batches[2].masks >= 0.5
    elif name == "digits":
        train, test = (digits(split, size=size, channels=3) for split in ("train", "test"))
        train, test = (train.images, train.labels), (test.images, test.labels)
        probe, masks = train, floats(test[0]).amax(dim=1) >= 0.5  # what is written
    elif kind == "folder":
        found = Folder(rest, size).load()
        for path, reason in found.skipped:
            print(f"skipped {path}: {reason}", file=sys.stderr)
        train, test = split_files(found.images, found.labels if found.classes else None, found.paths, "pictures")
        probe = train
    elif kind == "torchvision":
        which, _, root = rest.partition(":")
        train, test = (torchvision_dataset(which, root or "data", split=split, size=size) for split in ("train", "test"))
        train, test = (train.images, train.labels), (test.images, test.labels)
        probe = train
    else:
        raise wrong(
            "--data",
            given=repr(name),
            expected="scenes, scenes:easy, digits, folder:PATH or torchvision:NAME:ROOT",
            mend="pass one of these",
        )
    return Data(train[0], probe[0], test[0], train[1], probe[1], test[1], masks)


def labelled(data: Data, amount: float, seed: int) -> Tensor:
    """Ids of the training pictures whose labels are used, evenly over the classes: a share of all, or a number above 1."""
    if data.train_labels is None:
        raise wrong("--data", given="pictures without labels", expected="labelled pictures", mend="give each class its own folder")
    share = amount if amount <= 1 else amount / len(data.train_labels)
    if not 0 < share <= 1:
        raise wrong("--labels", given=str(amount), expected=f"a share in (0, 1], or a number up to {len(data.train_labels)}",
                    mend="pass one")  # fmt: skip
    if share == 1:
        return torch.arange(len(data.train_labels))
    return semi_supervised_subset(data.train_labels, share, torch.Generator().manual_seed(seed))


def floats(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; floating pictures as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@functools.lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, seed=seed, epoch=epoch)


def batch_of(step: int, n: int, batch: int, seed: int) -> tuple[int, Tensor]:
    """(epoch, indices [batch]) of a step: a function of these numbers, so that a resumed run needs nothing but its step."""
    if n < batch:
        raise wrong("--batch", given=f"{batch} with {n} training pictures", expected=f"at most {n}", mend=f"pass --batch {n} or less")
    epoch, position = divmod(step, n // batch)
    return epoch, _order(n, seed, epoch)[position * batch : (position + 1) * batch]


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, base: float) -> None:
    """The learning rate of a step: up to `base` in the first 8 %, then half a cosine to 0; times the `lr_scale` of a group."""
    rate = cosine(step, base=base, final=0.0, steps=steps, warmup=max(1, round(0.08 * steps)), start=base / 10)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


# Processes


@contextmanager
def processes() -> Iterator[tuple[dist.ProcessGroup | None, int, torch.device]]:
    """(group, rank, device). Under torchrun the group of all processes, else None: one process."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if "RANK" not in os.environ:
        yield None, 0, device
        return
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield dist.group.WORLD, dist.get_rank(), device
    finally:
        dist.destroy_process_group()


def share_of(batch: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """This process's rows of a global batch."""
    return batch if group is None else batch.tensor_split(dist.get_world_size(group))[dist.get_rank(group)]


# A run: settings, checkpoint, log, progress


def run_options(parser: argparse.ArgumentParser, *, steps: int, out: str, accumulate: bool = True) -> None:
    """The options every example has; `accumulate` only where the loss of a batch is the mean of its parts' losses."""
    parser.add_argument("--data", default="scenes", help="scenes | scenes:easy | digits | folder:PATH | torchvision:NAME:ROOT")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--epochs", type=int, help="passes over the training pictures, in the place of --steps")
    parser.add_argument("--seconds", type=float, help="choose the number of steps from the speed of the first ten, to take about this long")
    parser.add_argument("--batch", type=int, default=256, help="pictures per step, over all processes")
    if accumulate:
        parser.add_argument("--accumulate", type=int, default=1, help="parts that a process's batch is worked through in")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast of the network")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch's threads; 1 makes runs repeatable to the bit")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of checkpoint, log and pictures")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out; start anew where there is none")
    parser.add_argument("--overwrite", action="store_true", help="begin anew over the run in --out")
    parser.add_argument("--tensorboard", action="store_true")


# What may differ between a run and its continuation.
_FREE = {"out", "resume", "overwrite", "save_every", "threads", "tensorboard", "demo", "cache"}


def local_views(parser: argparse.ArgumentParser, crops: str) -> int:
    """N of `--crops 2+N`, and 0 of `--crops 2`."""
    large, _, local = crops.partition("+")
    if large != "2" or not (local or "0").isdigit():
        parser.error(f"--crops: got {crops!r}; expected 2, or 2+N with N local views. To mend: pass --crops 2+4")
    return int(local or 0)


class Run:
    """The folder of a run: `checkpoint.pt`, `log.jsonl`. Rank 0 writes, every rank reads."""

    def __init__(self, options: argparse.Namespace, rank: int = 0) -> None:
        self.options, self.rank, self.file = options, rank, options.out / "checkpoint.pt"
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        self.settings = {key: value for key, value in sorted(plain.items()) if key not in _FREE}
        self.steps = max(options.steps, 20) if options.seconds else options.steps
        self.undecided, self.began_anew = bool(options.seconds), False
        self.started = (time.perf_counter(), time.process_time())
        self.board = None
        for name in ("steps", "epochs", "batch", "accumulate", "save_every", "threads", "size"):
            if getattr(options, name, None) is not None and getattr(options, name) < 1:
                raise wrong(
                    f"--{name.replace('_', '-')}", given=str(getattr(options, name)), expected="a whole number from 1 on", mend="pass one"
                )
        if options.batch % getattr(options, "accumulate", 1):
            raise wrong("--accumulate", given=f"{options.accumulate} with --batch {options.batch}", expected="a divisor of the batch",
                        mend="pass --accumulate 2, 4 or 8")  # fmt: skip
        if self.file.exists() and not options.resume and not options.overwrite:
            raise wrong("--out", given=f"{options.out}, which holds a run", expected="an empty folder, --resume or --overwrite",
                        mend="pass --resume to go on, --out for another folder, or --overwrite to lose that run")  # fmt: skip
        options.out.mkdir(parents=True, exist_ok=True)
        if options.tensorboard and rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(options.out))

    def restore(self, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> int:
        """Loads the checkpoint, if this run goes on from one, and returns the step to begin with."""
        log = self.options.out / "log.jsonl"
        if not (self.options.resume and self.file.exists()):
            self.began_anew = True  # what an earlier run left is replaced by the first line of the log, not before
            return 0
        state = read_checkpoint(self.file)
        differing = [k for k in self.settings if state["settings"].get(k) != self.settings[k]]
        if differing:
            was, now = ({k: settings.get(k) for k in differing} for settings in (state["settings"], self.settings))
            raise wrong(
                "--resume", given=f"{now}", expected=f"{was}, with which {self.file} was begun", mend="pass these options, or another --out"
            )
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        self.steps, self.undecided = state["steps"], state["undecided"]
        if self.rank == 0 and log.exists():  # lines past the checkpoint, and a line torn by the interruption, will be written again
            kept = [line for line in log.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= state["step"]]
            _replace(log, "".join(f"{line}\n" for line in kept).encode())
        return state["step"]

    def save(self, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
        """The state after `step` steps, to a temporary file that is then renamed: there is always one whole checkpoint."""
        if self.rank == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            numbers = {"step": step, "steps": self.steps, "undecided": self.undecided}
            write_checkpoint(self.file, {"format": FORMAT, "settings": self.settings, **numbers, "parts": state})

    def write(self, step: int, **numbers: float) -> None:
        """One line of the log."""
        if self.rank == 0:
            if self.began_anew:
                for name in ("checkpoint.pt", "log.jsonl", "result.json", *PICTURES):
                    (self.options.out / name).unlink(missing_ok=True)
                self.began_anew = False
            with (self.options.out / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
            for name, number in numbers.items() if self.board else ():
                self.board.add_scalar(name, number, step)

    def progress(self, parts: dict[str, nn.Module | torch.optim.Optimizer], pictures: int) -> Iterator[int]:
        """The steps still to do, with a bar (rate, remaining time) and checkpoints; with --seconds, the first ten set their number."""
        batch_of(0, pictures, self.options.batch, self.options.seed)  # refuses before anything is touched
        if self.options.epochs:
            self.steps = self.options.epochs * (pictures // self.options.batch)
        first = self.restore(parts)
        bar = tqdm(total=self.steps, initial=first, disable=self.rank != 0, unit="step", dynamic_ncols=True)
        self.bar, step, began = bar, first, time.perf_counter()
        while step < self.steps:
            yield step
            step += 1
            bar.update()
            if self.undecided and step == first + 10:
                self.undecided = False
                left = self.options.seconds - (time.perf_counter() - self.started[0])
                self.steps = bar.total = agree(max(20, 10 + int(left / (time.perf_counter() - began) * 10)))
            if step % self.options.save_every == 0 or step == self.steps:
                self.save(step, parts)
        bar.close()

    def finish(self, **numbers: float) -> None:
        """result.json: the scores, and what they cost."""
        wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        result = {"steps": self.steps, "seed": self.options.seed, **numbers, "wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
        (self.options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def agree(number: int) -> int:
    """Rank 0's number, on every rank."""
    if not dist.is_initialized():
        return number
    box = [number]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def write_checkpoint(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict:
    """A checkpoint of these examples; tensors and plain values only, nothing in the file is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise wrong("checkpoint", given=f"{path}: {type(error).__name__}", expected="a whole checkpoint of these examples",
                    mend="pass the file an example wrote, or begin anew with --overwrite") from error  # fmt: skip
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = f"keys {sorted(map(str, state))[:4]}" if isinstance(state, dict) else type(state).__name__
        raise wrong("checkpoint", given=f"{path} with {found}", expected=f"one with format {FORMAT!r}",
                    mend="load foreign weights into a network with load_state_dict; --resume is for runs of this example")  # fmt: skip
    return state


def read_log(out: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def loss_curve(out: Path, names: Sequence[str] = ("loss",), *, file: str = "loss.png", y_label: str = "loss") -> Path:
    """Numbers of a run's log over its steps, those that have them, as a picture in its folder."""
    log = [line for line in read_log(out) if names[0] in line]
    steps = [line["step"] for line in log]
    return curves({name: (steps, [line[name] for line in log]) for name in names}, out / file, x_label="step", y_label=y_label)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


# Scores


class Floats(nn.Module):
    """`floats` as the first layer of a network, so that pictures stay uint8 in memory."""

    def forward(self, images: Tensor) -> Tensor:
        return floats(images)


def centred(images: Tensor) -> Tensor:
    """Pictures -> float32 in [-1, 1], as the transformers of these examples take them."""
    return floats(images) * 2 - 1


def small_resnet(channels: int) -> nn.Module:
    """ResNet-18 for small pictures: a plain 3 x 3 convolution is its stem."""
    network = resnet18()
    network.conv1, network.maxpool, network.fc = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    network.dim = 512
    return network


class Pooled(nn.Module):
    """Features of a ViT: its class token, or the mean of its patch tokens."""

    def __init__(self, encoder: nn.Module, by: str) -> None:
        super().__init__()
        self.encoder, self.by, self.dim = encoder, by, encoder.dim

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(centred(images)).pooled(self.by)  # [batch, dim]


class Looking(nn.Module):
    """What the heads of a ViT's class token look at in the last block: [batch, heads, patch tokens]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.encoder(centred(images), attention_of=-1)
        return tokens.attention[:, :, 0, len(tokens.names) :]


class Teacher(nn.Module):
    """A trained ConvNet of these examples, frozen, before its pooling; with its classifier at every place if classes are wanted."""

    def __init__(self, folder: Path | None, channels: int, classify: bool) -> None:
        super().__init__()
        if folder is None:
            raise wrong("--teacher", given="none", expected="a run of supervised.py or simclr.py", mend="train one, then pass its folder")
        weights = read_checkpoint(folder / "checkpoint.pt")["parts"]["model"]
        self.network = convnet_small(channels)
        own = {name.removeprefix("0."): weight for name, weight in weights.items() if name.startswith("0.")}
        if own.keys() != self.network.state_dict().keys() or (classify and "1.weight" not in weights):
            raise wrong("--teacher", given=f"{folder}", expected="a ConvNet" + (" with a classifier" if classify else ""),
                        mend="train one with supervised.py" + ("" if classify else " or simclr.py"))  # fmt: skip
        self.network.load_state_dict(own)
        self.register_buffer("weight", weights["1.weight"] if classify else None)
        self.register_buffer("bias", weights["1.bias"] if classify else None)
        self.values = len(self.weight) if classify else self.network.dim
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.network.maps(images)  # [batch, dim, h, w]
        return maps if self.weight is None else torch.einsum("kd,bdhw->bkhw", self.weight, maps)

    def logits(self, images: Tensor) -> Tensor:
        """[batch, classes], of whole pictures in [0, 1] of any size."""
        return nn.functional.linear(self.network(images), self.weight, self.bias)


class Words(nn.Module):
    """A trained dVAE, frozen: the visual words of pictures in [0, 1], resized to the 8 pixels a token that it takes."""

    def __init__(self, folder: Path | None, channels: int, released: tuple[str, str] | None = None) -> None:
        super().__init__()
        if folder is None and released is None:
            raise wrong("--dvae", given="none", expected="a run of dvae.py", mend="train one, then pass its folder")
        if channels != 3:
            raise wrong("--data", given=f"pictures of {channels} channels, for a dVAE of 3", expected="red, green and blue",
                        mend="repeat a grey channel three times")  # fmt: skip
        if folder is not None:
            weights = read_checkpoint(folder / "checkpoint.pt")["parts"]["model"]
            if not {"encoder.blocks.input.w", "decoder.blocks.input.w"} <= weights.keys():
                raise wrong("--dvae", given=f"{folder}", expected="a run of dvae.py", mend="train one, then pass its folder")
            released = tuple(
                {name.removeprefix(part): weight for name, weight in weights.items() if name.startswith(part)}
                for part in ("encoder.", "decoder.")
            )
        # sizes are read off the weights; in this format twice as fast on a CPU
        self.dvae = DVAE.from_openai(*released).to(memory_format=torch.channels_last)
        self.values = self.dvae.vocabulary
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, grid: tuple[int, int], ids: Tensor | None = None) -> Tensor:
        """[batch, h, w], or [batch, kept] of the tokens that `ids` names."""
        size = [8 * side for side in grid]
        if list(images.shape[-2:]) != size:
            images = nn.functional.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.dvae.tokens(images.contiguous(memory_format=torch.channels_last), grid=grid, ids=ids)

    def paint(self, words: Tensor, size: tuple[int, int]) -> Tensor:
        """Words [batch, h, w] -> pictures [batch, 3, *size] in [0, 1]."""
        return nn.functional.interpolate(self.dvae.decode(words), size=size, mode="bilinear", antialias=True)


def embed(encoder: nn.Module, images: Tensor, device: torch.device | None = None) -> Tensor:
    """Features [n, dim] of pictures, in evaluation mode."""
    return extract_features(nn.Sequential(Floats(), encoder), images, device=device)


def scores(encoder: nn.Module, data: Data, test: Tensor, device: torch.device | None = None) -> dict[str, float]:
    """Top-1 in percent of k-NN (k 10, temperature 0.1), a linear probe, and a linear probe with five labels a class.

    test: the features of the test pictures. Without labels: {}.
    """
    if data.probe_labels is None or data.test_labels is None:
        return {}
    sets = embed(encoder, data.probe, device), data.probe_labels, test, data.test_labels
    if not (sets[0].isfinite().all() and sets[2].isfinite().all()):  # a run that diverged is a result, too
        return {"knn": float("nan"), "linear": float("nan"), "few_shot": float("nan")}
    counts = data.probe_labels.bincount()
    shots = min(5, int(counts[counts > 0].min()))
    few = few_shot(*sets, shots=shots, generator=torch.Generator().manual_seed(0))
    knn = knn_classify(*sets[:3], k=10, temperature=0.1).accuracy(sets[3])
    return {"knn": knn.top1, "linear": linear_probe(*sets).top1, "few_shot": few.top1.mean}


def score_table(data: Data, pixels: float, rows: dict[str, dict[str, float]]) -> str:
    """The scores of several networks, by name, beside chance and raw pixels."""
    chance = 100 / (int(data.test_labels.max()) + 1)
    columns = {"knn": "   k-NN", "linear": "  linear", "few_shot": "  5 labels a class", "jaccard": "  Jaccard of attention"}
    columns = {key: title for key, title in columns.items() if all(key in row for row in rows.values())}
    lines = [f"top-1 in percent, chance {chance:.1f}, k-NN of raw pixels {pixels:.1f}", f"{'':22}" + "".join(columns.values())]
    lines += [f"{name:22}" + "".join(f"{row[key]:{len(title)}.1f}" for key, title in columns.items()) for name, row in rows.items()]
    return "\n".join(lines)


def knn_score(encoder: nn.Module, data: Data, count: int | None = None, device: torch.device | None = None) -> float:
    """k-NN top-1 in percent, k 10 and temperature 0.1, on all or `count` probe and test pictures; nan without labels."""
    if data.probe_labels is None or data.test_labels is None:
        return float("nan")
    probe, test = embed(encoder, data.probe[:count], device), embed(encoder, data.test[:count], device)
    if not (probe.isfinite().all() and test.isfinite().all()):
        return float("nan")
    return knn_classify(probe, data.probe_labels[:count], test, k=10, temperature=0.1).accuracy(data.test_labels[:count]).top1


def attention_jaccard(encoder: nn.Module, data: Data, device: torch.device | None = None) -> dict[str, float]:
    """How well the best head of a ViT's class token, its mask 60 % of its attention, covers the object, in percent.

    {} without masks of the test pictures.
    """
    if data.test_masks is None:
        return {}
    masks = attention_masks(embed(Looking(encoder), data.test, device), 0.6, grid=encoder.base, patch=encoder.patch)
    return {"jaccard": jaccard(masks, data.test_masks.long()).mean}
