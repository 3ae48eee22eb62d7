"""The counted operations of MAE's two encoders are those of a formula."""

import pytest
from benchmarks.mae_flops import counts, flops_by_hand


def test_counts_are_those_of_the_formula():
    found = counts()
    patches, kept, values = 196, 49, 768
    for name, tokens in (("visible patches", kept), ("mask tokens", patches)):
        encoder = flops_by_hand(tokens + 1, 1024, 24) + 2 * tokens * values * 1024
        assert found[f"encoder, {name}"] == encoder
        decoder = flops_by_hand(patches + 1, 512, 8) + 2 * (tokens + 1) * 1024 * 512 + 2 * patches * 512 * values
        assert found[f"model, {name}"] == encoder + decoder
    assert found["model, mask tokens"] / found["model, visible patches"] == pytest.approx(3.3, abs=0.1)  # table 1 (c)
