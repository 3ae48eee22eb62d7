"""Counter-based random numbers: a draw is a function of (seed, epoch, sample, slot) and of nothing else.

So one process and two, zero workers and four, a broken and a resumed run all see the same numbers. All arithmetic is on unsigned 32-bit
numbers, held in int64 tensors, and gives the same bits on every device.

    mix(x):      x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16          (products mod 2**32)
    keys(i, s):  mix(mix(i + 0x9E3779B9) ^ mix(s * 0x85ebca6b + 1))                                      s: the stream, see `stream`
    bits(k, n):  mix(k + n * 0x9E3779B9)                                                                 n: the slot

The finaliser `mix` is Chris Wellons' lowbias32 (hash-prospector, public domain).
"""

from typing import TypeVar

import torch
from torch import Tensor

from sslkit._checks import wrong

__all__ = ["bits", "integer", "keys", "mix", "permutation", "stream", "uniform", "uniforms"]

Number = TypeVar("Number", int, Tensor)
_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_EPOCHS = 1000  # epochs are parts from here on: a data set that makes its pictures from the same seed has the parts below for itself


def mix(x: Number) -> Number:
    """The finaliser above: a bijection of 0..2**32-1 in which every input bit moves every output bit. int64 tensor or int, in and out."""
    x = x & _MASK
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK  # 32 x 32 bits overflow int64, which wraps; the low 32 bits are right all the same
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def stream(seed: int, part: int = 0) -> int:
    """The number s of a stream: seed * 1000003 + part * 7919 + 17. `part` tells streams of one seed apart (split, epoch)."""
    return seed * 1000003 + part * 7919 + 17


def keys(indices: Tensor, stream: int) -> Tensor:
    """One key a sample: [batch] int64 indices -> [batch] int64 in 0..2**32-1."""
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise wrong(
            "counter.keys", given=f"indices of dtype {indices.dtype}", expected="integers", mend="pass indices.long()", kind=TypeError
        )
    return mix(mix(indices.long() + _GOLDEN) ^ mix(stream * 0x85EBCA6B + 1))


def bits(key: Tensor, slot: int | Tensor) -> Tensor:
    """32 random bits: int64 in 0..2**32-1, in the broadcast shape of key and slot."""
    return mix(key + slot * _GOLDEN)


def uniform(key: Tensor, slot: int | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """U[0, 1). float64 keeps all 32 bits; float32 the upper 24, so that the result never rounds up to 1. No other dtype."""
    if dtype == torch.float64:
        return bits(key, slot).to(dtype) / 2**32
    if dtype != torch.float32:
        raise wrong("counter.uniform", given=f"dtype={dtype}", expected="torch.float32 or torch.float64", mend="draw in float32, then cast")
    return (bits(key, slot) >> 8).to(dtype) / 2**24


def integer(key: Tensor, slot: int | Tensor, n: int) -> Tensor:
    """An integer in 0..n-1: (bits * n) >> 32, for n <= 2**31. int64."""
    return (bits(key, slot) * n) >> 32


def uniforms(batch: int, slots: int, *, generator: torch.Generator | None = None, indices: Tensor | None = None, seed: int | None = None,
             epoch: int = 0, offset: int = 0, device: torch.device | str | None = None) -> Tensor:  # fmt: skip
    """U[0, 1), float32 [batch, slots]: from `generator`, or, given `indices` and `seed`, a function of (seed, epoch, index, offset + slot).

    Args:
        batch: rows.
        slots: draws a row.
        generator: torch's source of numbers; None is torch's global one. Not together with `indices`.
        indices: [batch] integers, the samples' places in the data set.
        seed: required with `indices`.
        epoch: with `indices`: another epoch, other draws.
        offset: with `indices`: the first slot, so that two users of one sample do not share draws.
        device: of the result; default: that of indices, else of the generator.

    Raises:
        ValueError: both sources are given, or indices without a seed, or not one index a row.
    """
    if indices is None:
        if seed is not None:
            raise wrong("uniforms", given="seed without indices", expected="generator=, or indices= with seed=",
                        mend="pass indices= (the samples' numbers in the data set), or a seeded generator=")  # fmt: skip
        where = device if device is not None else (generator.device if generator is not None else None)
        return torch.rand(batch, slots, generator=generator, device=where)
    if generator is not None or seed is None:
        raise wrong("uniforms", given="indices with a generator" if generator is not None else "indices without a seed",
                    expected="generator=, or indices= with seed=", mend="pass one of the two sources")  # fmt: skip
    if not isinstance(indices, Tensor):
        raise wrong("uniforms", given=f"indices of type {type(indices).__name__}", expected="a tensor of integers",
                    mend="pass torch.as_tensor(indices)", kind=TypeError)  # fmt: skip
    if indices.shape != (batch,):
        raise wrong(
            "uniforms",
            given=f"indices {list(indices.shape)}",
            expected=f"[{batch}], one a sample",
            mend="pass one index per row of the batch",
        )
    key = keys(indices if device is None else indices.to(device), stream(seed, _EPOCHS + epoch))
    slot = torch.arange(offset, offset + slots, device=key.device)
    return uniform(key[:, None], slot)


def permutation(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order of n samples in an epoch: [n] int64, a function of (seed, epoch, n). Keys are sorted; equal ones keep their order."""
    return keys(torch.arange(n), stream(seed, _EPOCHS + epoch) ^ 0x5DEECE66).argsort(stable=True)
