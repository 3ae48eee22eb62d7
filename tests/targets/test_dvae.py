"""DALL-E's discrete VAE: official numbers, the released files, the loss from the paper."""

import hashlib
import math
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sslkit.maskers import RandomMasker
from sslkit.targets import DVAE
from sslkit.targets.dvae import logit_laplace, map_pixels, unmap_pixels
from sslkit.testing import proves

NAME = "targets.DVAE"


def tiny(seed=0, vocabulary=12):
    torch.manual_seed(seed)
    return DVAE(8, vocabulary, 4, 1)


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@proves(NAME, "golden")
def test_official_numbers(golden):
    g = golden("dalle_dvae")
    parts = [{name[4:]: g.tensor(name) for name in g if name.startswith(prefix)} for prefix in ("enc.", "dec.")]
    model = DVAE.from_openai(*parts)
    hidden, blocks, vocabulary, first, _ = g["config"]
    assert (model.encoder.blocks.input.w.shape[0], model.vocabulary, model.decoder.blocks.input.w.shape[0]) == (hidden, vocabulary, first)
    assert len(model.encoder.blocks.group_1) == blocks + 1
    close = {"rtol": 0, "atol": 1e-5}
    assert torch.equal(map_pixels(g.tensor("x")), g.tensor("x_mapped"))
    torch.testing.assert_close(model.logits(g.tensor("x")), g.tensor("logits"), rtol=1e-5, atol=1e-5)
    assert torch.equal(model.tokens(g.tensor("x")), g.tensor("tokens", torch.int64))
    one_hot = nn.functional.one_hot(g.tensor("tokens").long(), int(vocabulary)).movedim(-1, 1).float()
    torch.testing.assert_close(model.decoder(one_hot), g.tensor("x_stats"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.decode(g.tensor("tokens")), g.tensor("recon"), **close)
    torch.testing.assert_close(model.decoder(g.tensor("logits").softmax(1)), g.tensor("x_stats_from_softmax"), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unmap_pixels(g.tensor("unmap_in")), g.tensor("unmap_out"), **close)


@proves(NAME, "golden")
def test_official_names_and_shapes(golden):
    g = golden("dalle_dvae_keys")
    with torch.device("meta"):
        model = DVAE()
    for part, name, millions in ((model.encoder, "enc", 53_786_240), (model.decoder, "dec", 43_829_766)):
        weights = part.state_dict()
        assert list(weights) == g[f"{name}_keys"].tolist()
        assert [str(list(w.shape)) for w in weights.values()] == g[f"{name}_shapes"].tolist()
        assert sum(w.numel() for w in weights.values()) == millions


@proves(NAME, "loop")
def test_the_loss_of_the_paper():
    """Pixel by pixel and word by word, with the noise of the same generator."""
    model, images = tiny(), pictures(2, 3, 16, 24)
    got = model.loss(images, temperature=0.7, kl_weight=2.5, generator=torch.Generator().manual_seed(3))
    logits = model.logits(images)
    u = torch.rand(2, 12 * 6, generator=torch.Generator().manual_seed(3)).view_as(logits)
    z = torch.softmax((logits - (-u.log()).log()) / 0.7, dim=1)
    stats, y = model.decoder(z), 0.8 * images + 0.1
    total, kl = 0.0, 0.0
    for b in range(2):
        for c in range(3):
            mu, scale, value = stats[b, c], stats[b, 3 + c].exp(), y[b, c]
            density = torch.exp(-(torch.log(value / (1 - value)) - mu).abs() / scale) / (2 * scale * value * (1 - value))
            total -= density.log().sum()
        for place in logits[b].flatten(1).T:
            q = place.softmax(0)
            kl += (q * (q / (1 / 12)).log()).sum()
    numbers = images.numel()
    torch.testing.assert_close(got, total / numbers + 2.5 * kl / numbers)
    terms = model.terms(images, temperature=0.7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(terms.divergence, kl / 12)


@proves(NAME, "property")
@given(mean=st.floats(-4, 4), log_scale=st.floats(-1.5, 1.0))
def test_the_likelihood_is_a_density(mean, log_scale):
    """It integrates to one over (0, 1): in t = logit(y), dy = y (1 - y) dt."""
    t = torch.linspace(mean - 60, mean + 60, 400_001, dtype=torch.float64)
    y = torch.sigmoid(t).clamp(1e-15, 1 - 1e-15)
    inside = (t.abs() < 34).double()
    mass = torch.exp(-logit_laplace(y, torch.tensor(mean), torch.tensor(log_scale))) * y * (1 - y) * inside
    outside = math.exp(-(34 - abs(mean)) / math.exp(log_scale))
    assert torch.trapezoid(mass, t).item() == pytest.approx(1, abs=1e-4 + outside)


@proves(NAME, "property")
@settings(max_examples=20)
@given(height=st.integers(8, 33), width=st.integers(8, 33), seed=st.integers(0, 99))
def test_any_sides(height, width, seed):
    """Rests of halving are dropped; a picture's words do not depend on its neighbours in the batch."""
    model, images = tiny(), pictures(3, 3, height, width, seed=seed)
    tokens = model.tokens(images)
    assert (tokens.shape, tokens.dtype) == ((3, height // 8, width // 8), torch.int64)
    assert torch.equal(model.tokens(images[1:2])[0], tokens[1])
    assert model.decode(tokens).shape == (3, 3, height // 8 * 8, width // 8 * 8)
    assert model.loss(images, temperature=1.0).isfinite()
    levels = (images * 255).round().to(torch.uint8)
    assert torch.equal(model.tokens(levels), model.tokens(levels / 255))


@proves(NAME, "property")
def test_pixels_come_back_and_soft_codes_become_words():
    x = torch.linspace(0, 1, 101)
    torch.testing.assert_close(unmap_pixels(map_pixels(x)), x, rtol=0, atol=1e-6)
    model, images = tiny(), pictures(2, 3, 16, 16)
    logits = model.logits(images).detach()
    torch.testing.assert_close(model.decode((logits * 1e6).softmax(1)), model.decode(model.tokens(images)))
    mask = RandomMasker(count=3)(2, (2, 2), generator=torch.Generator().manual_seed(0))
    words = model.tokens(images, grid=(2, 2), ids=mask.ids_hidden)
    assert torch.equal(words, model.tokens(images).flatten(1).gather(1, mask.ids_hidden))


@proves(NAME, "property")
def test_noise_belongs_to_generator_or_sample():
    model, images = tiny(), pictures(2, 3, 16, 16)

    def loss(part=images, **source):
        return model.loss(part, temperature=0.5, kl_weight=0.0, **source)

    assert loss(generator=torch.Generator().manual_seed(1)) == loss(generator=torch.Generator().manual_seed(1))
    assert loss(generator=torch.Generator().manual_seed(1)) != loss(generator=torch.Generator().manual_seed(2))
    both = loss(indices=torch.tensor([4, 9]), seed=0)
    halves = [loss(images[i : i + 1], indices=torch.tensor([j]), seed=0) for i, j in ((0, 4), (1, 9))]
    torch.testing.assert_close(sum(halves) / 2, both)
    assert loss(indices=torch.tensor([4, 9]), seed=0, epoch=1) != both


@proves(NAME, "property")
def test_every_parameter_learns():
    model, images = tiny(), pictures(2, 3, 16, 16)
    model.loss(images, temperature=1.0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in model.parameters()) >= len(list(model.parameters())) - 4  # narrow ReLUs may be shut


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_words_do_not_depend_on_autocast(dtype):
    model, images = tiny(), pictures(2, 3, 16, 16)
    expected = model.tokens(images), model.decode(model.tokens(images)), model.loss(images, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=dtype):
        got = model.tokens(images), model.decode(model.tokens(images)), model.loss(images, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, expected, strict=True))
    assert torch.equal(model.tokens(images.to(dtype)), model.tokens(images.to(dtype).float()))


@proves(NAME, "compile")
def test_compiles_in_one_graph():
    torch.compiler.reset()
    model, images = tiny(), pictures(2, 3, 16, 16)

    def step(x):
        return model.tokens(x), model.decode(model.tokens(x)), model.loss(x, temperature=1.0, indices=torch.arange(2), seed=0)

    for got, expected in zip(torch.compile(step, fullgraph=True, backend="aot_eager")(images), step(images), strict=True):
        torch.testing.assert_close(got, expected)


# Files


FOREIGN = """
import torch
from torch import nn

class Conv2d(nn.Module):
    def __init__(self, w, b):
        super().__init__()
        self.w, self.b, self.use_float16, self.device = nn.Parameter(w), nn.Parameter(b), True, torch.device("cpu")

class Encoder(nn.Module):
    pass
"""
SAVE = """
import sys, torch
from foreign_dvae import Conv2d, Encoder
def tree(weights):
    if set(weights) == {"w", "b"}:
        return Conv2d(weights["w"], weights["b"])
    module = Encoder()
    for name in dict.fromkeys(key.split(".")[0] for key in weights):
        module.add_module(name, tree({k[len(name) + 1:]: v for k, v in weights.items() if k.split(".")[0] == name}))
    return module
for weights, whole in zip(sys.argv[1::2], sys.argv[2::2]):
    for zipped in (True, False):
        torch.save(tree(torch.load(weights)), whole + str(zipped), _use_new_zipfile_serialization=zipped)
"""


def test_whole_pickled_modules_are_read_without_their_classes(tmp_path):
    """In both formats of torch, of which the older keeps the source of the classes, too."""
    model = tiny()
    paths = []
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        torch.save(part.state_dict(), tmp_path / name)
        paths += [str(tmp_path / name), str(tmp_path / f"{name}.pkl")]
    (tmp_path / "foreign_dvae.py").write_text(FOREIGN)
    subprocess.run([sys.executable, "-c", SAVE, *paths], check=True, cwd=tmp_path)
    for zipped in (True, False):
        files = [f"{path}{zipped}" for path in paths[1::2]]
        assert (b"class Encoder(nn.Module)" in Path(files[0]).read_bytes()) != zipped
        with pytest.raises(ModuleNotFoundError, match="foreign_dvae"):
            torch.load(files[0], weights_only=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = DVAE.from_openai(*files)
        assert not caught
        for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    sums = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    assert DVAE.from_openai(*files, sha256=tuple(sums)).vocabulary == 12
    with pytest.raises(ValueError, match=r"with sha256 .*; expected 00. To mend: fetch the file again"):
        DVAE.from_openai(*files, sha256=("00", sums[1]))
    with pytest.raises(ValueError, match="encoder.pkl.* with sha256"):
        DVAE.from_openai(*files, sha256=(sums[1], sums[1]))
    with pytest.raises(ValueError, match="decoder.pkl.* with sha256"):
        DVAE.from_openai(*files, sha256=(sums[0], sums[0]))
    for digests in (sums[0], sums[0][:2], "", sums[:1], (sums[0], None)):
        with pytest.raises(TypeError, match=r"DVAE.from_openai: got sha256=.*; expected two strings, the encoder's and the decoder's"):
            DVAE.from_openai(*files, sha256=digests)
    for sources in ((model.encoder.state_dict(), files[1]), (files[0], model.decoder.state_dict())):
        with pytest.raises(ValueError, match="got sha256 with a state dict; expected files.* To mend: pass the paths of both files, or"):
            DVAE.from_openai(*sources, sha256=tuple(sums))
    assert DVAE.from_openai(*paths[0::2]).vocabulary == 12  # plain state dicts, too


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"weight": torch.ones(2), "other": Harmful(tmp_path / "harmed")}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"DVAE.from_openai: got weights that do not fit \('blocks.input.w'\)"):
        DVAE.from_openai(tmp_path / "file", tmp_path / "file")
    assert not (tmp_path / "harmed").exists()
    pickle.loads(pickle.dumps(Harmful(tmp_path / "harmed")))
    assert (tmp_path / "harmed").exists()  # elsewhere it would have been


@proves(NAME, "errors")
def test_wrong_input(tmp_path):
    model, images = tiny(), pictures(2, 3, 16, 16)
    (tmp_path / "cut").write_bytes(b"\x80\x02}q\x00.")
    torch.save({"step": 3}, tmp_path / "nothing")
    for call, message in [
        (lambda: DVAE(6), "DVAE: got hidden=6; expected a multiple of 4"),
        (lambda: DVAE(8, 0), "got vocabulary=0"),
        (lambda: model.tokens(images[:, :1]), r"DVAE.tokens: got images \[2, 1, 16, 16\]; expected \[batch, 3, height, width\], sides"),
        (lambda: model.logits(images[..., :7]), r"DVAE.logits: got .* sides of at least 8"),
        (lambda: model.tokens(images[0], grid=(2, 2)), "DVAE.tokens: got images .* 3 axes; expected the axes"),
        (lambda: model.tokens(images[0]), "3 axes; expected the axes"),
        (lambda: model.tokens(images, grid=(4, 4)), r"got images of 16 x 16, so 2 x 2 tokens, for the grid \(4, 4\); expected images of "
         r"32..39 x 32..39. To mend: resize them to 32 x 32"),
        (lambda: model.loss(images, temperature=0), "got temperature=0"),
        (lambda: model.decode(pictures(2, 5, 2, 2)), r"got tokens \[2, 5, 2, 2\]"),
        (lambda: DVAE.from_openai(tmp_path / "cut", tmp_path / "cut"), "cut: .*; expected a whole file of torch"),
        (lambda: DVAE.from_openai(tmp_path / "nothing", tmp_path / "nothing"), "without tensors; expected a pickled module, or a state"),
        (lambda: DVAE.from_openai(model.decoder.state_dict(), model.encoder.state_dict()), "pass encoder.pkl, then decoder.pkl"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="DVAE.tokens: got images of dtype torch.int64; expected uint8, or floating"):
        model.tokens(images.long())
    with pytest.raises(TypeError, match="DVAE.decode: got tokens of type list"):
        model.decode([[[0]]])
    for word, end in ((12, "from 0 to 12"), (-1, "from -1 to 0")):
        with pytest.raises(IndexError, match=f"DVAE.decode: got words {end}; expected 0..11. To mend: decode words of this model"):
            model.decode(torch.tensor([[[0, word]]]))


@proves(NAME, "errors")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_refused(dtype):
    model, images = tiny().to(dtype), pictures(2, 3, 16, 16)
    for name, call in {"tokens": model.tokens, "logits": model.logits, "loss": model.loss,
                       "decode": lambda _: model.decode(torch.zeros(1, 2, 2, dtype=torch.int64))}.items():  # fmt: skip
        with pytest.raises(TypeError, match=rf"DVAE.{name}: got weights of dtype {dtype}; expected torch.float32, as .* To mend: cast"):
            call(images)
