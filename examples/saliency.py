"""Where the object is: a small BASNet learns it from masks; beside it what needs no training, side by side as in DiLo's figure 3.

python examples/saliency.py                                  BASNet, 1.1 M parameters, on generated pictures; then max F and mean error
                                                             of every estimator on test pictures, saliency.png and pasted.png
python examples/saliency.py --teacher runs/supervised        two columns more: class activation map and gradient of a classifier
python examples/saliency.py --demo                           no training: eight pictures, their maps, and the objects on other backgrounds
python examples/dilo.py --saliency basnet --network runs/saliency      DiLo with the masks of this network

Expect with --size 64 --batch 16 --steps 120, 500 test pictures, seed 0: max F 0.922 of BASNet, 0.963 of MC, 0.950 of RBD, 0.814 of GS.
"""

import argparse
import importlib
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from common import (
    Run,
    Teacher,
    batch_of,
    loss_curve,
    processes,
    read_checkpoint,
    run_options,
    set_rate,
    share_of,
    wrong,
)
from sslkit.augmentations import Compose, CopyPaste, HorizontalFlip, ImageBackgrounds, RandomResizedCrop
from sslkit.datasets import Scenes
from sslkit.evaluation import f_beta, mean_absolute_error
from sslkit.losses import basnet_loss
from sslkit.plots import contact_sheet, save_picture
from sslkit.saliency import (
    BASNet,
    class_activation_map,
    geodesic_saliency,
    gradient_saliency,
    markov_chain_saliency,
    robust_background_saliency,
    superpixels,
)

ESTIMATORS = {"gs": geodesic_saliency, "mc": markov_chain_saliency, "rbd": robust_background_saliency}
NAMES = ("truth", *ESTIMATORS, "basnet", "cam", "gradient")
REGIONS = 100  # superpixels of a picture of 32 x 32; GS, MC and RBD ask for 200 at least of photographs


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run_options(parser, steps=300, out="runs/saliency")
    parser.set_defaults(data="scenes:easy", batch=32)
    parser.add_argument("--width", type=int, default=8, help="of BASNet's stem; 64 in the paper")
    parser.add_argument("--depth", type=int, default=1, help="blocks in each of the first four stages; 3, 4, 6, 3 in the paper")
    parser.add_argument("--crop", type=float, default=0.7, help="smallest share of the picture that is shown")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--teacher", type=Path, help="for cam and gradient: folder of a run of supervised.py at the same --size")
    parser.add_argument("--pictures", type=int, default=500, help="test pictures that are scored")
    parser.add_argument("--demo", action="store_true", help="only the pictures, by what needs no training, into runs/demo")
    options = parser.parse_args(arguments)
    if options.demo:
        options.out, options.size, options.pictures = Path("runs/demo"), 64, 40
    return options


def scenes_of(options, split, **more):
    """Generated pictures: the only ones whose masks are known."""
    kind, _, preset = options.data.partition(":")
    if kind != "scenes" or preset not in ("", "easy", "tiny"):
        raise wrong("--data", given=repr(options.data), expected="scenes, scenes:easy or scenes:tiny, whose masks are known",
                    mend="for your own pictures call sslkit.saliency and CopyPaste in your loop")  # fmt: skip
    return Scenes(split, options.size, preset=preset or "default", **more)


def basnet_of(folder):
    """The network of a run of this example, in evaluation mode."""
    if folder is None:
        raise wrong("--network", given="none", expected="a run of saliency.py", mend="train one, then pass its folder")
    state = read_checkpoint(folder / "checkpoint.pt")
    if "basnet" not in state["parts"]:
        raise wrong("--network", given=f"{folder}", expected="a run of saliency.py", mend="train one, then pass its folder")
    network = BASNet(state["settings"]["width"], (state["settings"]["depth"],) * 4)
    network.load_state_dict(state["parts"]["basnet"])
    return network.eval()


def estimator_of(name, network=None, teacher=None):
    """images [n, channels, size, size] in [0, 1] -> maps [n, 1, size, size]; by a name, or by your function MODULE:FUNCTION."""
    if name in ESTIMATORS:
        return lambda images: ESTIMATORS[name](images, superpixels=superpixels(images, count=REGIONS * images.shape[-1] // 32))
    if name == "basnet":
        model = basnet_of(network)
        return lambda images: model.saliency(images, size=tuple(images.shape[-2:]))
    if name in ("cam", "gradient"):
        model = Teacher(teacher, 3, classify=True)
        if name == "gradient":
            return lambda images: gradient_saliency(model.logits, images)
        return lambda images: class_activation_map(
            model.network.maps(images), model.weight, model.logits(images).argmax(dim=1), size=tuple(images.shape[-2:])
        )
    module, _, function = name.partition(":")
    if not function:
        raise wrong("--saliency", given=repr(name), expected=f"{', '.join(NAMES)}, FILE.npy or MODULE:FUNCTION", mend="pass one of these")
    return getattr(importlib.import_module(module), function)


def maps_of(name, images, truth, network=None, teacher=None):
    """Saliency of all pictures, uint8 [n, 1, size, size], made once: by an estimator, of the generator, or from FILE.npy."""
    if name == "truth":
        return (255 * truth).round().to(torch.uint8)
    if name.endswith(".npy"):
        maps = torch.from_numpy(np.load(name)).reshape(-1, 1, *images.shape[-2:])
        if len(maps) != len(images) or maps.dtype != torch.uint8:
            raise wrong("--saliency", given=f"{name}: {list(maps.shape)} of {maps.dtype}", expected=f"uint8 [{len(images)}, height, width]",
                        mend="save the maps of the training pictures, in their order, with numpy.save")  # fmt: skip
        return maps
    estimate = estimator_of(name, network, teacher)
    return torch.cat([(255 * estimate(part)).round().to(torch.uint8) for part in images.split(64)])


def train(options, run, network, group, device):
    """Pictures and masks are cropped and flipped together."""
    scenes = scenes_of(options, "train")
    batch = scenes.batch(torch.arange(len(scenes)))
    both = torch.cat([batch.images, batch.masks[:, None]], dim=1)  # [n, 4, size, size]
    view = Compose([RandomResizedCrop(options.size, scale=(options.crop, 1.0)), HorizontalFlip()])
    optimizer = torch.optim.Adam(network.parameters(), options.lr)
    model = network if group is None else DistributedDataParallel(network, process_group=group)
    model = torch.compile(model) if options.compile else model
    for step in run.progress({"basnet": network, "optimizer": optimizer}, len(scenes)):
        epoch, indices = batch_of(step, len(scenes), options.batch, options.seed)
        set_rate(optimizer, step, run.steps, options.lr)
        own = share_of(indices, group)
        x = view(both[own].to(device), indices=own.to(device), seed=options.seed, epoch=epoch)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            logits = model(network.normalized(x[:, :3]))
        loss = basnet_loss(logits, x[:, 3:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.write(step + 1, loss=loss.item())
        if run.rank == 0 and (step + 1) % 10 == 0:
            run.bar.set_postfix(loss=f"{loss.item():.3f}")


def report(options, run, names):
    """Every estimator's scores on test pictures, and two sheets of the first eight."""
    scenes = scenes_of(options, "test")
    batch = scenes.batch(torch.arange(options.pictures))
    truth, found = batch.masks[:, None], {}
    sheet = {"picture": batch.images[:8]}
    print(f"{options.pictures} test pictures" + "       max F  mean error")
    for name in names:
        maps = maps_of(name, batch.images, truth, options.out, options.teacher) / 255
        sheet[name] = maps[:8]
        if name != "truth":
            found[f"f_beta_{name}"], found[f"mae_{name}"] = f_beta(maps, truth).maximum, mean_absolute_error(maps, truth)
            print(f"{name:20} {found[f'f_beta_{name}']:9.3f} {found[f'mae_{name}']:11.3f}")
    if run is not None:
        run.finish(**found)
        print(loss_curve(options.out))
    print(save_sheet(sheet, options.out / "saliency.png"))
    print(save_sheet(pasted(scenes, batch.images[:8], truth[:8]), options.out / "pasted.png"))


def pasted(scenes, images, maps):
    """The objects on the backgrounds of DiLo's table 2 (c), by its blending options (d): "mix" is either of both."""
    others = torch.arange(len(images), 100)
    found = scenes.batch(others)
    quiet = found.images[found.masks.mean(dim=(1, 2)).argsort()[:10]]
    backgrounds = {"texture": ImageBackgrounds(scenes.backgrounds(others)), "image": ImageBackgrounds(quiet), "grey": "grayscale"}
    columns = {"picture": images, "truth": maps}
    for name, behind in backgrounds.items():
        for blend in ("none", "gaussian"):
            paste = CopyPaste(behind, blend=blend, probability=1.0, sigma=5 * images.shape[-1] / 224)
            columns[f"{name}, {blend}"] = paste(images, maps, indices=torch.arange(len(images)), seed=0)
    return columns


def save_sheet(columns, path):
    """One row a picture, one column a map."""
    scale = max(1, 128 // columns["picture"].shape[-1])
    cells = [column.expand(-1, 3, -1, -1).repeat_interleave(scale, 2).repeat_interleave(scale, 3) for column in columns.values()]
    spaced = [torch.nn.functional.pad(cell, (0, 0, 0, 2), value=1.0).movedim(0, 1).flatten(1, 2) for cell in cells]
    return save_picture(contact_sheet(torch.stack(spaced), columns=len(columns), titles=list(columns)), path)


def main(arguments=None):
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.demo:
        report(options, None, [*ESTIMATORS, "truth"])
        return
    with processes() as (group, rank, device):
        run = Run(options, rank)
        torch.manual_seed(options.seed)
        train(options, run, BASNet(options.width, (options.depth,) * 4).to(device), group, device)
        if rank == 0:
            report(options, run, [*ESTIMATORS, "basnet", *(("cam", "gradient") if options.teacher else ()), "truth"])


if __name__ == "__main__":
    main()
