import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.evaluation import top_accuracy
from sslkit.testing import proves


@proves("evaluation.top_accuracy", "loop", "property")
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 20), classes=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_equals_the_loop_for_logits_and_ranks(seed, batch, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    labels = torch.randint(classes + 2, (batch,), generator=generator)
    order = logits.argsort(dim=1, descending=True)
    one = sum(order[b, 0].item() == labels[b].item() for b in range(batch))
    five = sum(labels[b].item() in order[b, :5].tolist() for b in range(batch))
    for mine in (top_accuracy(logits, labels), top_accuracy(order, labels)):
        assert mine.to_dict() == {"top1": 100 * one / batch, "top5": 100 * five / batch, "samples": batch}


@proves("evaluation.top_accuracy", "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_ranked_as_they_are(dtype):
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(50) % 9
    assert top_accuracy(logits, labels) == top_accuracy(logits.float(), labels)


@proves("evaluation.top_accuracy", "errors")
def test_wrong_input():
    with pytest.raises(ValueError, match="expected batch=3"):
        top_accuracy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="at least one sample"):
        top_accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(TypeError, match=r"labels of dtype torch.bool"):
        top_accuracy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.bool))
