"""Masks from attention and their overlap with objects: official numbers, the smallest set, loops over pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.backbones import ViT
from sslkit.evaluation import attention_masks, jaccard
from sslkit.testing import proves

MASKS, JACCARD = "evaluation.attention_masks", "evaluation.jaccard"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def attention(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).mul(3).softmax(-1).to(dtype)


@proves(MASKS, "golden")
@proves(JACCARD, "golden")
@pytest.mark.parametrize("sample", ["a", "b"])
def test_official_masks_and_overlaps(golden, sample):
    g = golden("attention_mask")
    height, width, patch = g[f"{sample}/grid"].tolist()
    weights = g.tensor(f"{sample}/attention")[:, :, 0, 1:]  # of the class token, [1, heads, tokens]
    shares = [float(name.rsplit("/", 1)[1]) for name in g if name.startswith(f"{sample}/mask/")]
    assert shares
    for share in shares:
        masks = attention_masks(weights, share, grid=(height, width))
        assert torch.equal(masks[0], g.tensor(f"{sample}/mask/{share}"))
        # upsampled: what reaches the smallest kept weight in the official upsampled attention
        large, official = attention_masks(weights, share, grid=(height, width), patch=patch)[0], g.tensor(f"{sample}/upsampled_attention")
        least = official.masked_fill(~large, 1).amin(dim=(1, 2), keepdim=True)
        assert torch.equal(large, official >= least)
    result = jaccard(attention_masks(weights, grid=(height, width)), g.tensor(f"{sample}/gt")[None])
    torch.testing.assert_close(result.overlap, g.tensor(f"{sample}/jaccard_per_object_head"), rtol=0, atol=1e-12)
    assert result.mean == pytest.approx(100 * g.number(f"{sample}/jaccard_image"), abs=1e-10)


@proves(MASKS, "loop", "property")
@settings(max_examples=60)
@given(rows=st.integers(0, 3), tokens=st.integers(1, 30), mass=st.floats(0, 1, exclude_min=True), seed=st.integers(0, 99))
def test_the_fewest_tokens_that_hold_the_share(rows, tokens, mass, seed):
    """By hand from the largest down. What is kept holds the share; without its smallest it would not; one is kept always."""
    weights = attention(rows, tokens, seed=seed)
    masks = attention_masks(weights, mass)
    for row, mask in zip(weights.tolist(), masks.tolist(), strict=True):
        order = sorted(range(tokens), key=lambda n: -row[n])
        kept, held = set(), 0.0
        total = 0.0
        for n in order:  # summed in this order, as the sums it is compared with
            total += row[n]
        for n in order:
            if held < mass * total:
                kept.add(n)
                held += row[n]
        assert {n for n, keep in enumerate(mask) if keep} == kept
        assert kept
        assert held >= mass * total * (1 - 1e-12)
        assert held - min(row[n] for n in kept) < mass * total * (1 + 1e-12)


@proves(MASKS, "property")
@settings(max_examples=30)
@given(tokens=st.integers(1, 20), low=st.floats(0.01, 1), high=st.floats(0.01, 1), power=st.integers(-20, 20), seed=st.integers(0, 99))
def test_scale_order_and_monotony(tokens, low, high, power, seed):
    weights = attention(2, 3, tokens, seed=seed)
    small, large = (attention_masks(weights, mass) for mass in sorted((low, high)))
    assert (small <= large).all()  # a larger share keeps what a smaller one keeps
    assert torch.equal(attention_masks(weights * 2.0**power, high), attention_masks(weights, high))
    order = torch.randperm(tokens, generator=seeded(seed))
    assert torch.equal(attention_masks(weights[..., order], high), attention_masks(weights, high)[..., order])


@proves(MASKS, "property")
def test_edges():
    assert attention_masks(torch.full((4,), 0.25), 0.5).tolist() == [True, True, False, False]  # equals: the first
    assert attention_masks(torch.tensor([0.0, 0.5, 0.0, 0.5]), 1).tolist() == [False, True, False, True]
    assert attention_masks(torch.tensor([0.1, 0.7, 0.2]), 1e-30).tolist() == [False, True, False]
    assert attention_masks(torch.zeros(3)).tolist() == [False] * 3
    assert attention_masks(torch.zeros(2, 0, 5)).shape == (2, 0, 5)
    picture = attention_masks(torch.tensor([0.1, 0.7, 0.2, 0, 0, 0]), grid=(2, 3), patch=2)
    assert picture.long().tolist() == [[0, 0, 1, 1, 0, 0]] * 2 + [[0] * 6] * 2


@proves(MASKS, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits_keep_what_float64_keeps_of_the_same_numbers(dtype, autocast):
    """900 tokens: sums in 16 bit would end before them."""
    weights = attention(4, 900, dtype=dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        got = attention_masks(weights)
    expected = attention_masks(weights.double())
    # a border that lies within float32's rounding of the sum may move by a token
    assert (got != expected).sum(dim=-1).max() <= 1
    assert got.any(dim=-1).all()


@proves(MASKS, "property")
def test_registers_are_left_out_by_the_caller():
    """The line of the docstring, on a network with registers: the same as without the columns of the prefix."""
    torch.manual_seed(0)
    model = ViT(8, 4, 12, 2, 3, prefix=("cls", "reg", "reg"))
    tokens = model(torch.randn(2, 3, 8, 12, generator=seeded()), attention_of=-1)
    weights = tokens.attention[:, :, 0, len(tokens.names) :]
    assert weights.shape == (2, 3, 6)
    assert attention_masks(weights, grid=tokens.grid, patch=4).shape == (2, 3, 8, 12)


def by_hand(masks, truth, void):
    """Pixel by pixel: {(image, object): [overlap of each mask]}."""
    out = {}
    for b, picture in enumerate(truth.tolist()):
        pixels = [(y, x) for y, row in enumerate(picture) for x, label in enumerate(row) if label != void]
        for thing in sorted({picture[y][x] for y, x in pixels} - {0}):
            out[b, thing] = []
            for mask in masks[b].tolist():
                both = sum(mask[y][x] and picture[y][x] == thing for y, x in pixels)
                either = sum(mask[y][x] or picture[y][x] == thing for y, x in pixels)
                out[b, thing].append(both / either)
    return out


@proves(JACCARD, "loop", "property")
@settings(max_examples=40)
@given(batch=st.integers(1, 3), heads=st.integers(1, 3), height=st.integers(1, 5), width=st.integers(1, 5), labels=st.integers(2, 5),
       void=st.sampled_from([255, 2, None]), seed=st.integers(0, 99))  # fmt: skip
def test_equals_a_loop_over_pixels(batch, heads, height, width, labels, void, seed):
    masks = torch.rand(batch, heads, height, width, generator=seeded(seed)) < 0.5
    truth = torch.randint(labels, (batch, height, width), generator=seeded(seed + 1))
    expected = by_hand(masks, truth, void)
    if not expected:
        with pytest.raises(ValueError, match=r"jaccard: got truth .* without an object; expected a label that is neither 0 nor void"):
            jaccard(masks, truth, void=void)
        return
    result = jaccard(masks, truth, void=void)
    assert list(zip(result.image.tolist(), result.label.tolist(), strict=True)) == list(expected)
    assert result.overlap.tolist() == list(expected.values())
    images = sorted({b for b, _ in expected})
    best = [[max(row) for (image, _), row in expected.items() if image == b] for b in images]
    assert result.mean == pytest.approx(100 * sum(sum(rows) / len(rows) for rows in best) / len(images))
    assert result.to_dict() == {"mean": result.mean, "objects": len(expected), "images": len(images)}


@proves(JACCARD, "property")
def test_invariances():
    masks, truth = torch.rand(2, 3, 4, 5, generator=seeded()) < 0.5, torch.randint(3, (2, 4, 5), generator=seeded(1))
    result = jaccard(masks, truth)
    for other in (
        jaccard(masks.flip(0), truth.flip(0)),  # images
        jaccard(masks[:, [2, 0, 1]], truth),  # masks
        jaccard(masks.flip(-1), truth.flip(-1)),  # pixels
        jaccard(masks, (3 - truth) % 3),  # names of objects
        jaccard(*(x.repeat_interleave(2, -1).repeat_interleave(3, -2) for x in (masks, truth))),  # resolution
        jaccard(torch.cat([masks, torch.zeros_like(masks)], dim=1), truth),  # a mask of nothing
        jaccard(torch.cat([masks, masks[:1]]), torch.cat([truth, torch.zeros_like(truth[:1])])),  # an image of nothing
    ):
        assert other.mean == pytest.approx(result.mean)
    assert jaccard(torch.stack([truth == 1, truth == 2], dim=1), truth).mean == 100
    assert jaccard(truth[:, None] == 0, truth).mean == 0
    assert str(jaccard(truth[:, None] > 0, truth.clamp(max=1))) == "Jaccard 100.0 % of 2 objects in 2 images"


@proves(MASKS, "errors")
@proves(JACCARD, "errors")
def test_errors():
    weights = attention(2, 6)
    for mass in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"attention_masks: got mass={mass}"):
            attention_masks(weights, mass)
    with pytest.raises(ValueError, match=r"got grid=\(2, 2\), patch=4 for 6 tokens; expected a grid \(h, w\) of 6. To mend: leave the"):
        attention_masks(weights, grid=(2, 2), patch=4)
    with pytest.raises(ValueError, match=r"got grid=\(1, 2, 3\), patch=1 for 6 tokens"):
        attention_masks(weights, grid=(1, 2, 3))
    with pytest.raises(ValueError, match="got grid=None, patch=4 for 6 tokens"):
        attention_masks(weights, patch=4)
    with pytest.raises(ValueError, match="got patch=0; expected a whole patch from 1 on"):
        attention_masks(weights, grid=(2, 3), patch=0)
    with pytest.raises(TypeError, match="got attention of dtype torch.int64; expected a floating dtype"):
        attention_masks(weights.long())
    masks, truth = torch.ones(2, 3, 4, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"jaccard: got truth \[2, 4, 5\] with width=5; expected width=4 as in masks"):
        jaccard(masks, torch.ones(2, 4, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="jaccard: got masks of dtype torch.float32; expected torch.bool"):
        jaccard(masks.float(), truth)
    with pytest.raises(TypeError, match="jaccard: got truth of dtype torch.bool; expected class ids of an integer dtype"):
        jaccard(masks, truth.bool())
    with pytest.raises(ValueError, match=r"jaccard: got truth \[2, 4, 4\] without an object"):
        jaccard(masks, 255 * truth)
