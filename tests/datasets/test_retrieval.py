import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.datasets import Scenes, retrieval_labels
from sslkit.testing import proves

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20)


@proves("datasets.retrieval_labels", "loop", "property")
@settings(deadline=None, max_examples=40)
@given(queries=pairs, database=pairs, protocol=st.sampled_from(["medium", "hard"]), inside=st.booleans())
def test_equals_a_loop(queries, database, protocol, inside):
    q, d = torch.tensor(queries), torch.tensor(database)
    rows = torch.arange(len(queries)) % len(database) if inside else None
    truth = retrieval_labels(q[:, 0], q[:, 1], d[:, 0], d[:, 1], protocol=protocol, query_rows=rows)
    for i, (label, family) in enumerate(queries):
        positives, junk = [], []
        for j, (other, place) in enumerate(database):
            if (inside and j == rows[i]) or (protocol == "hard" and other == label and place == family):
                junk.append(j)
            elif other == label:
                positives.append(j)
        assert truth.positives[i].tolist() == positives
        assert truth.junk[i].tolist() == junk


def test_on_scenes():
    batch = Scenes("test", 24).batch(range(300))
    hard = retrieval_labels(batch.labels, batch.family, batch.labels, batch.family, protocol="hard", query_rows=batch.indices)
    for query in range(300):
        assert torch.all(batch.family[hard.positives[query]] != batch.family[query])
        assert query in hard.junk[query]


@proves("datasets.retrieval_labels", "errors")
def test_wrong_input():
    one = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="got protocol='easy'; expected 'medium' or 'hard'"):
        retrieval_labels(one, one, one, one, protocol="easy")
    with pytest.raises(ValueError, match="queries=3; expected queries=2"):
        retrieval_labels(one, torch.zeros(3), one, one)
