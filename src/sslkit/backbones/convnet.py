"""The small ConvNet of the claims: learns something in a CPU minute."""

from collections import OrderedDict

from torch import Tensor, nn

from sslkit._checks import wrong


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, BatchNorm, ReLU; then the mean over all places.

    Args:
        channels: of the images.
        widths: output channels of each stage.
        strides: of each stage; 2 halves the map.

    Shapes: `forward` [batch, channels, height, width] -> [batch, dim], dim = widths[-1]; `maps` gives [batch, dim, h, w] before the mean.
    Images of any size, floating.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        if not widths or len(widths) != len(strides) or min(channels, *widths, *strides) < 1:
            raise wrong("ConvNet", given=f"channels={channels}, widths={widths}, strides={strides}",
                        expected="one width and one stride a stage, from 1 on", mend="see convnet_small for a set that works")  # fmt: skip
        self.channels, self.dim = channels, widths[-1]
        stages = OrderedDict[str, nn.Module]()
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            before = widths[i - 1] if i else channels
            stages[f"conv{i}"] = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            stages[f"norm{i}"] = nn.BatchNorm2d(width)
            stages[f"relu{i}"] = nn.ReLU()
        self.stages = nn.Sequential(stages)

    def maps(self, images: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, dim, h, w]."""
        if images.ndim != 4 or images.shape[1] != self.channels or not images.is_floating_point():
            raise wrong("ConvNet", given=f"images {list(images.shape)} of dtype {images.dtype}",
                        expected=f"floating [batch, {self.channels}, height, width]",
                        mend="scale uint8 pictures to [0, 1] with images / 255, and give channels= their number")  # fmt: skip
        return self.stages(images)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))


def convnet_small(channels: int = 3, width: int = 24) -> ConvNet:
    """24 - 48 - 48 - 96 - 96 channels, three of them with stride 2: 96 features, 0.15 M parameters, made for 32 x 32 pictures."""
    return ConvNet(channels, (width, 2 * width, 2 * width, 4 * width, 4 * width), (2, 2, 1, 2, 1))
