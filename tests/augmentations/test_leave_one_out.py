"""Quarter turns and leave-one-out views: permutations, what is copied, what is not, replay."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.augmentations import ColorJitter, Grayscale, HorizontalFlip, LeaveOneOut, QuarterTurn, RandomResizedCrop
from sslkit.testing import pickles, proves

TURN, LOO = "augmentations.QuarterTurn", "augmentations.LeaveOneOut"
OPS = (QuarterTurn(), RandomResizedCrop(8), HorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.5), Grayscale(0.5))
SPACES = ((0,), (3, 4))


def images(batch=6, side=12, seed=0):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@proves(TURN, "loop", "property", "half")
@given(
    batch=st.integers(1, 5),
    side=st.integers(1, 6),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_turns_are_permutations_counter_clockwise(batch, side, dtype, seed):
    x = (images(batch, side, seed) * 255).to(dtype)
    op = QuarterTurn()
    parameters = op.sample(batch, (side, side), generator=torch.Generator().manual_seed(seed))
    got = op.apply(x, parameters)
    for b, turns in enumerate(parameters["turns"].tolist()):
        for i in range(side):
            for j in range(side):
                r, c = i, j
                for _ in range(turns):  # out[i, j] = in[j, side - 1 - i]: the right edge comes to the top
                    r, c = c, side - 1 - r
                assert torch.equal(got[b, :, i, j], x[b, :, r, c])
    back = op.apply(got, {"turns": (4 - parameters["turns"]) % 4})
    assert torch.equal(back, x)


@proves(TURN, "property", "compile", "pickle")
def test_only_the_turns_that_are_asked_for():
    op = QuarterTurn((1, 2, 3))
    parameters = op.sample(3000, (4, 4), generator=torch.Generator().manual_seed(0))
    counts = parameters["turns"].bincount(minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 900
    parameters = {"turns": parameters["turns"][:6]}
    assert torch.equal(torch.compile(op.apply, backend="aot_eager", fullgraph=True)(images(), parameters), op.apply(images(), parameters))
    half = QuarterTurn((0, 2))
    wide = images()[:, :, :5]
    assert torch.equal(half.apply(wide, {"turns": torch.full((6,), 2)}), wide.flip(2, 3))
    pickles(partial(op, indices=torch.arange(6), seed=0), (images(),))


@proves(LOO, "loop", "property")
def test_keys_copy_one_space_and_draw_the_rest():
    views = LeaveOneOut(OPS, SPACES)
    assert (views.shared, views.views) == ((0, 1, 2), 4)
    parameters = views.sample(256, (12, 12), generator=torch.Generator().manual_seed(0))
    for view, copied in ((1, ()), (2, SPACES[0]), (3, SPACES[1])):
        for key in parameters:
            if key.startswith("view0."):
                place = int(key.split(".")[1])
                mine, query = parameters[key.replace("view0", f"view{view}")], parameters[key]
                share = (mine == query).flatten(1).all(dim=1).float().mean() if mine.ndim > 1 else (mine == query).float().mean()
                assert (share == 1) == (place in copied), (view, key)


@proves(LOO, "loop", "half")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 0), (torch.uint8, 0.5 / 255), (torch.float16, 2**-12), (torch.bfloat16, 2**-9)]
)
def test_each_view_is_its_ops_one_by_one_rounded_once(dtype, rounding, autocast):
    """In [0, 1] a number rounds by half a level, of uint8 or of the dtype just below 1; float32 leaves 1e-6 between two orders of sums."""
    views, x = LeaveOneOut(OPS, SPACES), images(64)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    parameters = views.sample(64, (12, 12), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = views.apply(x, parameters)
    for v, view in enumerate(got):
        expected = x.float() / 255 if dtype == torch.uint8 else x.float()
        for place, op in enumerate(OPS):
            start = f"view{v}.{place}.{op.name}."
            expected = op.apply(expected, {key.removeprefix(start): value for key, value in parameters.items() if key.startswith(start)})
        assert view.dtype == dtype
        assert view.shape == (64, 3, 8, 8)
        levels = view.float() / 255 if dtype == torch.uint8 else view.float()
        torch.testing.assert_close(levels, expected, rtol=0, atol=rounding + 1e-6)


@proves(LOO, "property")
def test_a_turn_shared_by_query_and_key_is_seen_in_the_pictures():
    """A picture that is bright above: with turns alone, key 1 stands as the query does, key 0 in a quarter of the cases."""
    x = torch.linspace(1, 0, 8)[:, None].expand(400, 3, 8, 8).contiguous()
    query, zero, one = LeaveOneOut((QuarterTurn(),), ((0,),))(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(query, one)
    same = (query == zero).flatten(1).all(dim=1).float().mean()
    assert 0.15 < same < 0.35
    both = LeaveOneOut((QuarterTurn(),), ((0,),), all_shared=True)
    assert both.shared == (0,)
    query, key = both(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(query, key)


@proves(LOO, "property")
@proves(TURN, "property")
@pytest.mark.parametrize("turns", [(0, 1, 2, 3), (1, 2, 3), (3, 1)])
def test_distinct_turns_are_uniform_over_those_the_query_does_not_have(turns):
    ops, spaces = (HorizontalFlip(), QuarterTurn(turns), Grayscale(0.5)), ((1,), (2,))
    draws = LeaveOneOut(ops, spaces, distinct=True).sample(6000, (8, 8), generator=torch.Generator().manual_seed(0))
    plain = LeaveOneOut(ops, spaces).sample(6000, (8, 8), generator=torch.Generator().manual_seed(0))
    query, zero, own, grey = (draws[f"view{v}.1.turn.turns"] for v in range(4))
    assert torch.equal(own, query)
    for view in (zero, grey):
        assert not (view == query).any()
        assert set(view.tolist()) == set(turns)
        share = ((view - query) % 4).bincount(minlength=4) / 6000
        expected = torch.tensor([sum((b - a) % 4 == d for a in turns for b in turns if a != b) for d in range(4)])
        torch.testing.assert_close(share, expected / expected.sum(), rtol=0, atol=0.03)
    for key in draws:  # nothing else moves
        assert torch.equal(draws[key], plain[key]) or key in ("view1.1.turn.turns", "view3.1.turn.turns")


@proves(LOO, "property", "compile", "pickle")
def test_draws_belong_to_the_samples_and_repeat():
    views = LeaveOneOut(OPS, SPACES)
    whole = views(images(), indices=torch.arange(6), seed=1, epoch=2)
    part = views(images()[2:4], indices=torch.arange(2, 4), seed=1, epoch=2)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a[2:4], b, rtol=0, atol=1e-6)
    parameters = views.sample(6, (12, 12), indices=torch.arange(6), seed=1, epoch=2)
    assert all(torch.equal(a, b) for a, b in zip(views.apply(images(), parameters), whole, strict=True))
    moco = LeaveOneOut(OPS)  # no space: a query and a key
    assert moco.shared == (0,)
    query, key = moco(images(), indices=torch.arange(6), seed=1, epoch=2)
    torch.testing.assert_close(query, whole[0])
    torch.testing.assert_close(key, whole[1])
    compiled = torch.compile(views.apply, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(images(), parameters), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert pickled(views) == views


def pickled(x):
    import pickle

    return pickle.loads(pickle.dumps(x))


@proves(TURN, "errors")
@proves(LOO, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"QuarterTurn: got turns=\(4,\); expected some of 0, 1, 2, 3"):
        QuarterTurn((4,))
    with pytest.raises(ValueError, match="QuarterTurn: got images of 5 x 12; expected square ones"):
        QuarterTurn()(images()[:, :, :5])
    with pytest.raises(ValueError, match="LeaveOneOut: got distinct turns of a QuarterTurn with one; expected two or more to choose from"):
        LeaveOneOut((QuarterTurn((2,)),), ((0,),), distinct=True)
    for options in ({"distinct": True}, {"distinct": True, "spaces": ((3, 4),)}, {"distinct": True, "all_shared": True, "spaces": SPACES},
                    {"all_shared": True}):  # fmt: skip  # they would change nothing
        with pytest.raises(ValueError, match="LeaveOneOut: got (distinct|all_shared)=True with.* To mend: "):
            LeaveOneOut(OPS, **options)
    for spaces in (((5,),), ((-1,),), ((0.5,),), ((True,),), ((0,), (0,)), ((),)):
        with pytest.raises(ValueError, match="LeaveOneOut: got spaces=.* of 5 ops; expected places in ops, each at most once"):
            LeaveOneOut(OPS, spaces)
    with pytest.raises(TypeError, match="Compose: got a builtin_function_or_method"):
        LeaveOneOut((torch.flip,))
