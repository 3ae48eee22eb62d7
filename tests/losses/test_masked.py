"""Losses on hidden tokens against loops and the official numbers; what is visible has no say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.losses import masked_cross_entropy, masked_mse
from sslkit.patches import patchify
from sslkit.targets import normalized_pixels
from sslkit.testing import masks, proves

MSE, CE = "losses.masked_mse", "losses.masked_cross_entropy"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@proves(MSE, "golden")
def test_official_loss_and_gradient(golden):
    g = golden("mae_patchify_loss")
    cases = [name.removesuffix("_imgs") for name in g if name.endswith("_imgs")]
    assert cases
    for case in cases:
        images, patch, mask = g.tensor(f"{case}_imgs"), g.number(f"{case}_p"), g.tensor(f"{case}_mask").bool()
        for norm, target in ((0, patchify(images, patch)), (1, normalized_pixels(images, patch))):
            prediction = g.tensor(f"{case}_pred").requires_grad_()
            loss = masked_mse(prediction, target, mask)
            loss.backward()
            torch.testing.assert_close(loss.detach(), g.tensor(f"{case}_loss_norm{norm}"), rtol=1e-5, atol=0)
            torch.testing.assert_close(prediction.grad, g.tensor(f"{case}_gradpred_norm{norm}"), rtol=0, atol=1e-6)


@proves(CE, "golden")
def test_official_loss_of_visual_words(golden):
    g = golden("beit_model")
    logits, tokens, mask = g.tensor("logits_all"), g.tensor("token_ids"), g.tensor("mask").bool().flatten(1)
    if tokens.shape != mask.shape:  # stored for hidden tokens alone, row by row
        tokens = torch.zeros(mask.shape, dtype=tokens.dtype).masked_scatter(mask, tokens)
    loss = masked_cross_entropy(logits, tokens, mask)
    torch.testing.assert_close(loss, g.tensor("loss").view(()), rtol=0, atol=2e-5)
    torch.testing.assert_close(masked_cross_entropy(g.tensor("logits_masked"), tokens[mask]), loss, rtol=0, atol=2e-5)


@proves(MSE, "loop", "property")
@given(mask=masks(equal=False), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_mse_equals_a_loop(mask, dim, seed):
    prediction, target = torch.randn(2, *mask.shape, dim, generator=seeded(seed), dtype=torch.float64)
    errors = [((prediction[b, n] - target[b, n]) ** 2).mean().item() for b, n in mask.nonzero().tolist()]
    expected = sum(errors) / len(errors) if errors else 0
    assert masked_mse(prediction, target, mask).item() == pytest.approx(expected, abs=1e-12)
    if errors:
        assert masked_mse(prediction[mask], target[mask]).item() == pytest.approx(expected, abs=1e-12)


@proves(CE, "loop", "property")
@given(mask=masks(equal=False), words=st.integers(1, 6), seed=st.integers(0, 99))
def test_cross_entropy_equals_a_loop(mask, words, seed):
    logits = torch.randn(*mask.shape, words, generator=seeded(seed), dtype=torch.float64)
    tokens = torch.randint(words, mask.shape, generator=seeded(seed))
    errors = [-math.log(logits[b, n].softmax(0)[tokens[b, n]]) for b, n in mask.nonzero().tolist()]
    expected = sum(errors) / len(errors) if errors else 0
    assert masked_cross_entropy(logits, tokens, mask).item() == pytest.approx(expected, abs=1e-12)
    if errors:
        assert masked_cross_entropy(logits[mask], tokens[mask]).item() == pytest.approx(expected, abs=1e-12)


@proves(MSE, "property")
@proves(CE, "property")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_visible_tokens_have_no_say_not_even_nan(poison):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    for loss_of, other in ((masked_mse, torch.ones(2, 3, 4)), (masked_cross_entropy, torch.ones(2, 3, dtype=torch.int64))):
        prediction = torch.zeros(2, 3, 4)
        clean = loss_of(prediction, other, mask)
        prediction = prediction.masked_fill(~mask[..., None], poison).requires_grad_()
        loss = loss_of(prediction, other, mask)
        loss.backward()
        assert loss == clean
        assert (prediction.grad[~mask] == 0).all()
        assert prediction.grad[mask].abs().sum() > 0


@proves(MSE, "property")
@proves(CE, "property")
def test_nothing_hidden_is_zero_with_zero_gradient_and_targets_get_none():
    prediction, target = (
        torch.randn(2, 3, 4, generator=seeded(0)).requires_grad_(),
        torch.randn(2, 3, 4, generator=seeded(1)).requires_grad_(),
    )
    masked_mse(prediction, target, torch.zeros(2, 3, dtype=torch.bool)).backward()
    assert prediction.grad.abs().sum() == 0
    assert target.grad is None
    assert masked_mse(torch.empty(0, 4), torch.empty(0, 4)) == 0
    assert masked_cross_entropy(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)) == 0
    assert masked_cross_entropy(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool)) == 0


@proves(MSE, "errors")
def test_mse_errors():
    x, mask = torch.zeros(4, 196, 3), torch.ones(4, 196, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masked_mse: got mask \[4, 49\] with tokens=49; expected tokens=196 as in prediction. To mend"):
        masked_mse(x, x, mask[:, :49])
    with pytest.raises(ValueError, match="masked_mse: got mask of dtype torch.float32; expected torch.bool, True = hidden"):
        masked_mse(x, x, mask.float())
    with pytest.raises(ValueError, match=r"got target \[4, 196, 2\] with dim=2; expected dim=3 as in prediction"):
        masked_mse(x, x[..., :2], mask)
    with pytest.raises(TypeError, match="got target of dtype torch.int64"):
        masked_mse(x, x.long(), mask)


@proves(CE, "errors")
def test_cross_entropy_errors():
    logits, tokens, mask = torch.zeros(4, 9, 3), torch.zeros(4, 9, dtype=torch.int64), torch.ones(4, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masked_cross_entropy: got tokens \[4, 8\] with tokens=8; expected tokens=9 as in logits"):
        masked_cross_entropy(logits, tokens[:, :8], mask)
    with pytest.raises(TypeError, match="got tokens of dtype torch.float32; expected integers"):
        masked_cross_entropy(logits, tokens.float(), mask)
    with pytest.raises(ValueError, match="got mask of dtype torch.int64"):
        masked_cross_entropy(logits, tokens, mask.long())
