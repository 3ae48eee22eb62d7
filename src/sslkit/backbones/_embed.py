"""Pixels -> tokens: the patch and tubelet embedding."""

from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import wrong
from sslkit.kernels import gather_patches
from sslkit.patches import grid_of, patchify


class PatchEmbed(nn.Module):
    """One linear map of every patch (or tubelet) that does not overlap the next.

        out[b, n, d] = bias[d] + sum over (c, u, p, q) of weight[d, c, u, p, q] * pixels[b, n, c, u, p, q]

    The parameters are those of a convolution with stride = kernel, `proj`. They are applied as one matrix product, which gives the same
    numbers, and with `ids` touches the pixels of the named tokens alone.

    Args:
        patch: side in pixels.
        dim: size of a token.
        channels: of the images.
        tubelet: frames per token; None for images.

    Source: Dosovitskiy et al. 2021 (ViT), eq. 1; Arnab et al. 2021 (ViViT), sec. 3.2, tubelet embedding.
    """

    def __init__(self, patch: int, dim: int, *, channels: int = 3, tubelet: int | None = None) -> None:
        super().__init__()
        if min(patch, dim, channels, 1 if tubelet is None else tubelet) < 1:
            raise wrong("PatchEmbed", given=f"patch={patch}, dim={dim}, channels={channels}, tubelet={tubelet}",
                        expected="whole numbers from 1 on", mend="patch=16, tubelet=2 are usual")  # fmt: skip
        self.patch, self.channels, self.tubelet = patch, channels, tubelet
        if tubelet is None:
            self.proj: nn.Conv2d | nn.Conv3d = nn.Conv2d(channels, dim, patch, stride=patch)
        else:
            self.proj = nn.Conv3d(channels, dim, (tubelet, patch, patch), stride=(tubelet, patch, patch))

    def grid(self, images: Tensor) -> tuple[int, ...]:
        """The grid of these images; raises what is wrong with them."""
        rank = 4 if self.tubelet is None else 5
        if images.ndim != rank or images.shape[1] != self.channels or not images.is_floating_point():
            raise wrong("PatchEmbed", given=f"images {list(images.shape)} of dtype {images.dtype}",
                        expected=f"floating [batch, {self.channels}, {'time, ' * (rank - 4)}height, width]",
                        mend="scale uint8 pictures with images / 255; the model's channels= and tubelet= say what it takes")  # fmt: skip
        return grid_of(tuple(images.shape[2:]), self.patch, tubelet=self.tubelet or 1)

    def forward(self, images: Tensor, ids: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """[batch, channels, (time,) height, width] -> [batch, tokens, dim], row-major; with ids [batch, kept], these tokens.

        The pixels of tokens where `hidden`, bool [batch, tokens], is True are taken for 0.
        """
        self.grid(images)  # raises what is wrong with them
        if ids is None:
            values = patchify(images, self.patch, tubelet=self.tubelet or 1, order="cpq")
        else:
            values = gather_patches(images, ids, self.patch, tubelet=self.tubelet or 1)
        if hidden is not None:
            values = values.masked_fill(hidden[..., None], 0)
        return _product(values, self.proj.weight.flatten(1), self.proj.bias)


def _product(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """functional.linear; [batch, tokens, values] -> [batch, tokens, dim].

    On a CPU it is written as a convolution of single pixels, tokens lying in memory as they did. Convolutions run on oneDNN, which has
    the vector instructions of every maker; the BLAS behind `linear` takes twice as long on an AMD processor.
    """
    if values.device.type != "cpu" or not values.shape[1]:  # a convolution refuses a picture without pixels
        return functional.linear(values, weight, bias)
    pixels = values.transpose(1, 2).unsqueeze(2)  # [batch, values, 1, tokens], channels last: a wrong place of the 1 would cost a copy
    return functional.conv2d(pixels, weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)
