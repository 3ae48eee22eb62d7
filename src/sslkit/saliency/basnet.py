"""BASNet: a network that was trained to show where the object is."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from sslkit._checks import need_whole, wrong
from sslkit.saliency._lab import as_floats
from sslkit.saliency._unit_range import unit_range

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
STRIDE = 32
# Stage: the widths before, between and after its three convolutions, in widths of the stem, and their dilations.
STAGES = {"bg": ((8, 8, 8, 8), (2, 2, 2)), "6d": ((16, 8, 8, 8), (1, 2, 2)), "5d": ((16, 8, 8, 8), (1, 1, 1)),
          "4d": ((16, 8, 8, 4), (1, 1, 1)), "3d": ((8, 4, 4, 2), (1, 1, 1)), "2d": ((4, 2, 2, 1), (1, 1, 1)),
          "1d": ((2, 1, 1, 1), (1, 1, 1))}  # fmt: skip
STEPS = ("1", "m", "2")  # the authors' names of the three convolutions of a stage
SIDES = {"b": 8, "6": 8, "5": 8, "4": 4, "3": 2, "2": 1, "1": 1}  # side output -> widths it sees


class BASNet(nn.Module):
    """A residual U-net that predicts at seven depths, and a small one that refines the last prediction.

        h1..h6 = ResNet-34 without its pooling, then two stages of three blocks at 1/16 and 1/32        skip maps
        hb = bridge(h6);   d6 = stage(hb, h6);   d[s] = stage(enlarged d[s+1], h[s]),  s = 5..1
        logits = refined, 1, 2, 3, 4, 5, 6, bridge:   one convolution each of d1..d6 and hb, enlarged to the image
        refined = logits 1 + refine(logits 1)

    Parameters carry the names of the released weights: `BASNet().load_state_dict(torch.load("basnet.pth"))` takes them key for key.

    Args:
        width: of the stem; 64 has the paper's 87,060,360 parameters, 8 is a sixty-fourth of it.
        depths: blocks of the first four stages; ResNet-34's.

    Shapes: `forward` [batch, 3, height, width], normalised, sides multiples of 32 -> logits [batch, 8, height, width], the refined first.

    Raises:
        ValueError: a width or depth that is not a whole number from 1 on; sides that are no multiples of 32.

    Source: Qin et al. 2019, "BASNet: Boundary-Aware Salient Object Detection", sec. 3, and the authors' code.
    """

    def __init__(self, width: int = 64, depths: tuple[int, int, int, int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        need_whole("BASNet", width=width, **{f"depth{i + 1}": depth for i, depth in enumerate(depths)})
        self.inconv, self.inbn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        before = width
        for i, depth in enumerate(depths):
            after = width * 2**i
            self.add_module(f"encoder{i + 1}", _residual(before, after, depth, 1 if i == 0 else 2))
            before = after
        for stage in (5, 6):
            for i in range(3):
                self.add_module(f"resb{stage}_{i + 1}", BasicBlock(before, before))
        for tag, (widths, dilations) in STAGES.items():
            for i, (step, dilation) in enumerate(zip(STEPS, dilations, strict=True)):
                a, b = (width * multiple for multiple in widths[i : i + 2])
                self.add_module(f"conv{tag}_{step}", nn.Conv2d(a, b, 3, padding=dilation, dilation=dilation))
                self.add_module(f"bn{tag}_{step}", nn.BatchNorm2d(b))
        for side, multiple in SIDES.items():
            self.add_module(f"outconv{side}", nn.Conv2d(multiple * width, 1, 3, padding=1))
        self.refunet = _Refinement(width)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % STRIDE or images.shape[3] % STRIDE or 0 in images.shape[2:]:
            raise wrong("BASNet", given=f"images {list(images.shape)}", expected="[batch, 3, height, width], multiples of 32",
                        mend="resize them, or call BASNet.saliency, which does")  # fmt: skip
        x = functional.relu(self.inbn(self.inconv(images)))
        skips = []
        for i in range(1, 5):
            x = self.get_submodule(f"encoder{i}")(x)
            skips.append(x)
        for stage in (5, 6):
            x = functional.max_pool2d(x, 2, ceil_mode=True)
            for i in range(1, 4):
                x = self.get_submodule(f"resb{stage}_{i}")(x)
            skips.append(x)
        x = self._stage("bg", x)
        found = {"b": x}
        for stage in range(6, 0, -1):
            x = self._stage(f"{stage}d", torch.cat([x if stage == 6 else _double(x), skips[stage - 1]], dim=1))
            found[str(stage)] = x
        size = images.shape[2:]
        logits = [_to(self.get_submodule(f"outconv{side}")(found[side]), size) for side in reversed(SIDES)]
        return torch.cat([self.refunet(logits[0]), *logits], dim=1)

    @staticmethod
    def normalized(images: Tensor) -> Tensor:
        """What the network is trained on: x = image / its own maximum;  (x - mean) / deviation of ImageNet's colours.

        images [batch, 3 or 1, height, width], uint8 or floating in [0, 1] -> [batch, 3, height, width], float32 or wider. A grey image
        takes red's mean and deviation three times, a black one is divided by 1e-6.
        """
        _need_images("BASNet.normalized", images)
        x = as_floats(images)
        x = x / x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        mean, std = (x.new_tensor(values[: x.shape[1]])[:, None, None] for values in (MEAN, STD))
        return ((x - mean) / std).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def saliency(self, images: Tensor, *, size: tuple[int, int] = (256, 256)) -> Tensor:
        """Maps as the other estimators give them, in evaluation mode.

            map = sigmoid of the refined logits of the image, resized to `size` and `normalized`;   stretched to [0, 1], resized back

        Args:
            images: [batch, 3 or 1, height, width], uint8 or floating in [0, 1].
            size: sides the network works at, multiples of 32; the authors' 256, whatever the aspect.

        Returns:
            [batch, 1, height, width] in [0, 1], float32 or wider; 0 where all places are alike.

        Raises:
            ValueError: the axes, a module in training mode, sides that are no multiples of 32.
        """
        _need_images("BASNet.saliency", images)
        if self.training:
            raise wrong("BASNet.saliency", given="a network in training mode", expected="evaluation mode", mend="call eval() on it")
        x = self.normalized(_to(as_floats(images), size, antialias=True))
        logits = self(x.to(self.inconv.weight.dtype))[:, :1]
        maps = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        return _to(unit_range(maps), images.shape[2:])

    def _stage(self, tag: str, x: Tensor) -> Tensor:
        for step in STEPS:
            x = functional.relu(self.get_submodule(f"bn{tag}_{step}")(self.get_submodule(f"conv{tag}_{step}")(x)))
        return x


def _need_images(where: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise wrong(where, given=f"images {list(images.shape)}", expected="[batch, 3 or 1, height, width]",
                    mend="choose one or three channels, and put them before height and width")  # fmt: skip


class _Refinement(nn.Module):
    """A U-net of one convolution a scale: logits [batch, 1, height, width] -> logits, their correction added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, width, 3, padding=1)
        for i in range(1, 6):
            self.add_module(f"conv{i}", nn.Conv2d(width, width, 3, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
        for i in range(4, 0, -1):
            self.add_module(f"conv_d{i}", nn.Conv2d(2 * width, width, 3, padding=1))
            self.add_module(f"bn_d{i}", nn.BatchNorm2d(width))
        self.conv_d0 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, logits: Tensor) -> Tensor:
        x, skips = self.conv0(logits), []
        for i in range(1, 6):
            x = self._unit(f"{i}", x if i == 1 else functional.max_pool2d(x, 2, ceil_mode=True))
            skips.append(x)
        for i in range(4, 0, -1):
            x = self._unit(f"_d{i}", torch.cat([_double(x), skips[i - 1]], dim=1))
        out: Tensor = logits + self.conv_d0(x)
        return out

    def _unit(self, name: str, x: Tensor) -> Tensor:
        return functional.relu(self.get_submodule(f"bn{name}")(self.get_submodule(f"conv{name}")(x)))


def _residual(before: int, after: int, depth: int, stride: int) -> nn.Sequential:
    """A stage of ResNet-34."""
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    return nn.Sequential(BasicBlock(before, after, stride, shortcut), *(BasicBlock(after, after) for _ in range(depth - 1)))


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _to(x: Tensor, size: tuple[int, int] | torch.Size, *, antialias: bool = False) -> Tensor:
    """Resized bilinearly, where it is of another size."""
    if x.shape[2:] == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias)
