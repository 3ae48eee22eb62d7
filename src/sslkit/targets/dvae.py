"""Visual words: the discrete VAE of DALL-E, whose codes BEiT predicts."""

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import bind_axes, need_positive, need_whole, wrong
from sslkit.counter import uniforms
from sslkit.kernels import gather_tokens
from sslkit.targets._dvae_layers import Decoder, Encoder
from sslkit.targets._openai import read_weights

EPS = 0.1  # of the map to (0, 1)
FACTOR = 8  # pixels a token along each axis


def map_pixels(x: Tensor) -> Tensor:
    """[0, 1] -> [0.1, 0.9]: (1 - 2 eps) x + eps, so that the logit is finite."""
    return (1 - 2 * EPS) * x + EPS


def unmap_pixels(y: Tensor) -> Tensor:
    """The inverse of `map_pixels`, cut off at 0 and 1."""
    return ((y - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def logit_laplace(y: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log of the density on (0, 1) of a variable whose logit is Laplace-distributed; below 0 where it is dense.

        f(y) = exp(-|logit(y) - mean| / b) / (2 b y (1 - y)),   b = exp(log_scale)

    Source: Ramesh et al. 2021 (DALL-E), appendix A.3, eq. 5.
    """
    return (torch.logit(y) - mean).abs() * (-log_scale).exp() + log_scale + math.log(2) + y.log() + torch.log1p(-y)


class Terms(NamedTuple):
    """What the loss is made of: -log likelihood a number of the picture, and the code's divergence from the prior a token, in nats."""

    reconstruction: Tensor
    divergence: Tensor


class DVAE(nn.Module):
    """Images <-> a grid of words of a vocabulary, one for 8 x 8 pixels.

        logits = encoder(map_pixels(x)),   tokens = argmax over the vocabulary
        reconstruction = unmap_pixels(sigmoid(first three channels of decoder(one-hot tokens)))

        loss = E[logit_laplace(y, mean, log_scale)] + kl_weight * FACTOR^-2 / 3 * E[KL(softmax(logits), uniform)]
        (mean, log_scale) = decoder(z),  z = softmax((logits - log(-log u)) / temperature),  y = map_pixels(x)

    Four groups of residual blocks, halved by maxima after the first three; the decoder mirrors it with doubled pixels. Names of parameters
    are those of the released weights, so their state dicts load key for key.

    Args:
        hidden: channels of the first group; doubled in each of the next. A multiple of 4.
        vocabulary: number of words.
        decoder_init: channels that a word becomes first.
        blocks: residual blocks a group.

    Shapes: images [batch, 3, height, width], uint8 or floating in [0, 1], any sides of at least 8 (rests of halving are dropped).
    Computed in float32, outside of autocast: a rounded logit is another word. Weights of another dtype are refused.

    Source: Ramesh et al. 2021 (DALL-E), sec. 2.1 and appendix A.2, A.3, and the authors' code; Bao et al. 2022 (BEiT), sec. 2.1. Published
    training: kl_weight 0 -> 6.6 over 5 000 steps, temperature 1 -> 1/16 over 150 000, both by a cosine; AdamW, 1e-4 -> 1.25e-6.
    """

    def __init__(self, hidden: int = 256, vocabulary: int = 8192, decoder_init: int = 128, blocks: int = 2) -> None:
        super().__init__()
        need_whole("DVAE", hidden=hidden, vocabulary=vocabulary, decoder_init=decoder_init, blocks=blocks)
        if hidden % 4:
            raise wrong(
                "DVAE", given=f"hidden={hidden}", expected="a multiple of 4, the narrowing inside of a block", mend=f"pass {4 * hidden}"
            )
        self.vocabulary = vocabulary
        self.encoder, self.decoder = Encoder(hidden, vocabulary, blocks), Decoder(hidden, vocabulary, decoder_init, blocks)

    @staticmethod
    def from_openai(encoder: "str | os.PathLike[str] | Mapping[str, Tensor]", decoder: "str | os.PathLike[str] | Mapping[str, Tensor]", *,
                    sha256: tuple[str, str] | None = None) -> "DVAE":  # fmt: skip
        """The released model, from its two files (encoder.pkl, decoder.pkl) or from state dicts; its sizes are read off the weights.

        The files are pickled modules. Tensors are taken out of them; no class and no code that they name is imported or run.

        Args:
            encoder: path, or a state dict with the released names.
            decoder: the same.
            sha256: hexadecimal digests that the two files must have; none are built in. Not together with a state dict.

        Raises:
            ValueError: a digest differs or there is no file that could have it, a file holds no such weights, or names and shapes fit no
                DVAE.
            TypeError: sha256 is not two strings.

        Source: the DALL-E repository.
        """
        if sha256 is not None and not (isinstance(sha256, tuple | list) and [type(x) for x in sha256] == [str, str]):
            raise wrong("DVAE.from_openai", given=f"sha256={sha256!r}", expected="two strings, the encoder's and the decoder's",
                        mend="pass sha256=(of encoder.pkl, of decoder.pkl)", kind=TypeError)  # fmt: skip
        parts = [read_weights(x, digest) for x, digest in zip((encoder, decoder), sha256 or (None, None), strict=True)]
        try:
            first, word = parts[0]["blocks.input.w"], parts[1]["blocks.input.w"]
            count = sum(f"blocks.group_1.block_{i}.res_path.conv_1.w" in parts[0] for i in range(1, 100))
            model = DVAE(first.shape[0], word.shape[1], word.shape[0], count)
            model.encoder.load_state_dict(parts[0])
            model.decoder.load_state_dict(parts[1])
        except (KeyError, RuntimeError) as error:
            raise wrong("DVAE.from_openai", given=f"weights that do not fit ({str(error).splitlines()[0]})",
                        expected="the encoder's and the decoder's weights, blocks.input.w and on", mend="pass encoder.pkl, then decoder.pkl"
                        ) from error  # fmt: skip
        return model

    def logits(self, images: Tensor) -> Tensor:
        """Images -> [batch, vocabulary, h, w], with gradient."""
        return self._logits(self._mapped("DVAE.logits", images))

    def _logits(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return self.encoder(y)  # type: ignore[no-any-return]

    @torch.no_grad()
    def tokens(self, images: Tensor, *, grid: tuple[int, int] | None = None, ids: Tensor | None = None) -> Tensor:
        """Images -> the word of every place, int64 [batch, h, w]; or, with `ids` [batch, kept], of these tokens alone, [batch, kept].

        Args:
            images: at 8 pixels a token: half the side of what a model with 16-pixel patches sees.
            grid: what the masker's grid is, to be checked.
            ids: places of tokens, row-major: `mask.ids_hidden`.

        Raises:
            ValueError: images of another shape, or their tokens do not fill the grid.
            TypeError: images are neither uint8 nor floating, or the weights not float32.
        """
        y = self._mapped("DVAE.tokens", images)
        height, width = y.shape[-2:]
        if grid is not None and (height // FACTOR, width // FACTOR) != tuple(grid):
            fits = " x ".join(f"{FACTOR * g}..{FACTOR * g + FACTOR - 1}" for g in grid)
            have = f"{height // FACTOR} x {width // FACTOR} tokens"
            raise wrong("DVAE.tokens", given=f"images of {height} x {width}, so {have}, for the grid {tuple(grid)}",
                        expected=f"images of {fits}", mend=f"resize them to {FACTOR * grid[0]} x {FACTOR * grid[1]}")  # fmt: skip
        found = self._logits(y).argmax(dim=1)
        return found if ids is None else gather_tokens(found.flatten(1)[..., None], ids)[..., 0]

    def decode(self, tokens: Tensor) -> Tensor:
        """Words [batch, h, w], integers, or weights of words [batch, vocabulary, h, w] -> pictures [batch, 3, 8 h, 8 w] in [0, 1].

        Raises:
            ValueError: tokens of another shape.
            IndexError: on a CPU, a word is outside of the vocabulary (on a GPU: a device-side assertion).
            TypeError: the weights are not float32.
        """
        self._need_float32("DVAE.decode")
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and not tokens.is_floating_point():
            tokens = self._one_hot(tokens.long()).movedim(-1, 1).float()
        bind_axes("DVAE.decode", tokens=(tokens, f"batch {self.vocabulary} height width"))
        with torch.autocast(tokens.device.type, enabled=False):
            return unmap_pixels(self.decoder(tokens.float())[:, :3].sigmoid())

    def terms(self, images: Tensor, *, temperature: float, generator: torch.Generator | None = None, indices: Tensor | None = None,
              seed: int | None = None, epoch: int = 0) -> Terms:  # fmt: skip
        """Both terms of the loss; the Gumbel noise comes from `generator`, or belongs to (seed, epoch, index)."""
        need_positive("DVAE.loss", temperature=temperature)
        y = self._mapped("DVAE.loss", images)
        with torch.autocast(images.device.type, enabled=False):
            logits = self.encoder(y)
            batch, words, height, width = logits.shape
            u = uniforms(batch, words * height * width, generator=generator, indices=indices, seed=seed, epoch=epoch, offset=1 << 21,
                         device=images.device).view_as(logits)  # fmt: skip
            gumbel = -(-(u.clamp(min=torch.finfo(u.dtype).tiny)).log()).log()
            soft = ((logits + gumbel) / temperature).softmax(dim=1)
            mean, log_scale = self.decoder(soft).chunk(2, dim=1)
            y = y[..., : FACTOR * height, : FACTOR * width]
            log_q = logits.log_softmax(dim=1)
            divergence = (log_q.exp() * (log_q + math.log(words))).sum(dim=1)
            return Terms(logit_laplace(y, mean, log_scale).mean(), divergence.mean())

    def loss(self, images: Tensor, *, temperature: float = 1.0, kl_weight: float = 6.6, generator: torch.Generator | None = None,
             indices: Tensor | None = None, seed: int | None = None, epoch: int = 0) -> Tensor:  # fmt: skip
        """The negative relaxed evidence lower bound a number of the picture, a scalar: see the class.

        Args:
            images: as for the class.
            temperature: of the relaxation; towards 0, z becomes one word.
            kl_weight: beta of the paper.
            generator: source of the noise; None is torch's global one. Not together with `indices`.
            indices: [batch], the pictures' places in the data set.
            seed: required with `indices`.
            epoch: with `indices`.

        Raises:
            ValueError: images of another shape, or a temperature that is not positive.
            TypeError: images are neither uint8 nor floating, or the weights not float32.
        """
        terms = self.terms(images, temperature=temperature, generator=generator, indices=indices, seed=seed, epoch=epoch)
        return terms.reconstruction + kl_weight / (3 * FACTOR**2) * terms.divergence

    def _mapped(self, where: str, images: Tensor) -> Tensor:
        """Checked pictures as float32 in (0, 1)."""
        self._need_float32(where)
        sizes = bind_axes(where, images=(images, "batch channels height width"))
        if sizes["channels"] != 3 or min(sizes["height"], sizes["width"]) < FACTOR:
            raise wrong(where, given=f"images {list(images.shape)}", expected=f"[batch, 3, height, width], sides of at least {FACTOR}",
                        mend="repeat a grey channel with images.expand(-1, 3, -1, -1)")  # fmt: skip
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise wrong(where, given=f"images of dtype {images.dtype}", expected="uint8, or floating in [0, 1]",
                        mend="pass images.to(torch.uint8)", kind=TypeError)  # fmt: skip
        return map_pixels(images.float() / 255 if images.dtype == torch.uint8 else images.float())

    def _need_float32(self, where: str) -> None:
        if other := {p.dtype for p in self.parameters()} - {torch.float32}:
            raise wrong(where, given=f"weights of dtype {', '.join(map(str, other))}",
                        expected="torch.float32, as a rounded logit is another word",
                        mend="cast this model back by .float()", kind=TypeError)  # fmt: skip

    def _one_hot(self, words: Tensor) -> Tensor:
        """[...] -> [..., vocabulary]."""
        try:
            return functional.one_hot(words, self.vocabulary)
        except RuntimeError as error:
            if words.numel() and int(words.min()) >= 0 and int(words.max()) < self.vocabulary:  # out of memory, say
                raise
            raise wrong("DVAE.decode", given=f"words from {int(words.min())} to {int(words.max())}", expected=f"0..{self.vocabulary - 1}",
                        mend="decode words of this model", kind=IndexError) from error  # fmt: skip
