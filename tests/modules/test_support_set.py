"""The queue and its search, against official numbers, a list, brute force, one process and an unbroken run."""

import copy
import math
import pickle
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.nn.functional import normalize

from sslkit import _bank
from sslkit.evaluation import neighbour_match_accuracy
from sslkit.losses import info_nce, nnclr_loss
from sslkit.modules import SupportSet
from sslkit.testing import proves, resumes, run_in_processes

NAME = "modules.SupportSet"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def units(*shape, seed=0, dtype=torch.float32):
    return normalize(torch.randn(*shape, generator=seeded(seed), dtype=torch.float64), dim=-1).to(dtype)


def holding(rows, labels=None):
    support = SupportSet(*rows.shape)
    support.enqueue(rows, labels)
    return support


@proves(NAME, "golden")
def test_official_order_of_the_slots(golden):
    """The official queue holds a running counter; ours rows of length 1, so that the counter becomes an angle."""
    g = golden("queue")
    size, values = g.number("size"), torch.as_tensor(g["values"]).double()
    angles = values * math.pi / (values.max() + 1)
    support = SupportSet(size, 2, generator=seeded())
    start = 0
    for batch, snap, pointer in zip(g["batch_sizes"].tolist(), g["snap_wrap"], g["ptr_wrap"].tolist(), strict=True):
        part = angles[start : start + batch]
        support.enqueue(torch.stack([part.cos(), part.sin()], dim=1) * 5)
        start += batch
        written = torch.as_tensor(snap) > 0
        found = torch.atan2(support.rows[:, 1], support.rows[:, 0]) * (values.max() + 1) / math.pi
        torch.testing.assert_close(found[written].double(), torch.as_tensor(snap)[written].double(), rtol=0, atol=1e-3)
        assert support.pointer.item() == pointer
        assert support.filled.item() == written.sum()
        assert torch.equal(support.came >= 0, written)


@proves(NAME, "golden")
def test_official_neighbours(golden):
    g = golden("nnclr")
    support = holding(g.tensor("queue"), g.tensor("queue_y"))
    for view in ("1", "2"):
        near = support.nearest(g.tensor(f"z{view}"))
        assert torch.equal(near.ids, g.tensor(f"idx{view}"))
        torch.testing.assert_close(near.rows, g.tensor(f"nn{view}"), rtol=1e-5, atol=1e-6)
    four = support.nearest(g.tensor("z1"), k=g["top4_idx1"].shape[1])
    assert torch.equal(four.ids, g.tensor("top4_idx1"))
    torch.testing.assert_close(four.similarity, g.tensor("top4_sim1"), rtol=1e-5, atol=1e-6)
    soft = support.nearest(g.tensor("z1"), soft_temperature=g.number("temperature"))
    torch.testing.assert_close(soft.rows, g.tensor("soft_nn1"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalize(g.tensor("soft_weights1") @ support.rows, dim=1), soft.rows, rtol=1e-5, atol=1e-6)
    assert torch.equal(soft.ids, g.tensor("idx1"))
    match = neighbour_match_accuracy(support.nearest(g.tensor("z1")).labels, g.tensor("labels"))
    assert match.item() == pytest.approx(g.number("nn_match_acc"), abs=1e-6)


@proves(NAME, "golden")
@proves("evaluation.neighbour_match_accuracy", "golden")
def test_official_steps(golden):
    g = golden("nnclr")
    support = holding(g.tensor("step_queue0"))
    for step, (z, labels) in enumerate(zip(g.tensor("step_z1"), g.tensor("step_y"), strict=True)):
        near = support.nearest(z)
        assert torch.equal(near.ids, g.tensor("step_idx")[step])
        assert neighbour_match_accuracy(near.labels, labels).item() == pytest.approx(g["step_match_acc"][step].item(), abs=1e-6)
        support.enqueue(z, labels)
        assert support.pointer.item() == g["step_ptr"][step]
        torch.testing.assert_close(support.rows[:, 0], g.tensor("step_queue_col0")[step], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(support.rows, g.tensor("step_queue_final"), rtol=1e-5, atol=1e-6)
    written = g.tensor("step_queue_y_final") >= 0
    assert torch.equal(support.labels[written], g.tensor("step_queue_y_final")[written])


@proves(NAME, "loop", "property")
@given(size=st.integers(1, 7), batches=st.lists(st.integers(0, 17), max_size=6), seed=st.integers(0, 99))
def test_holds_the_last_rows_in_slot_order(size, batches, seed):
    """Against a list, one row after another."""
    support = SupportSet(size, 3, generator=seeded(seed))
    slots, came = list(support.rows.clone()), [-1] * size
    labels, count = [-1] * size, 0
    for step, batch in enumerate(batches):
        z = torch.randn(batch, 3, generator=seeded(seed + step + 1))
        before = support.rows.clone()
        support.enqueue(z, torch.arange(count, count + batch))
        for row in z:
            slots[count % size], labels[count % size], came[count % size] = row / row.norm(), count, step
            count += 1
        assert (before == support.rows).all(dim=1).sum() >= size - batch
    torch.testing.assert_close(support.rows, torch.stack(slots))
    torch.testing.assert_close(support.rows.norm(dim=1), torch.ones(size))
    assert support.labels.tolist() == labels
    assert support.age.tolist() == [0 if c < 0 else len(batches) - c for c in came]
    assert (support.filled.item(), support.pointer.item()) == (min(count, size), count % size)


@proves(NAME, "property")
@given(size=st.integers(1, 9), first=st.integers(0, 9), second=st.integers(0, 9))
def test_two_halves_are_one_batch(size, first, second):
    z = units(first + second, 4)
    one, two = (SupportSet(size, 4, generator=seeded()) for _ in range(2))
    one.enqueue(z)
    two.enqueue(z[:first])
    two.enqueue(z[first:])
    for name in ("rows", "labels", "filled", "pointer"):
        assert torch.equal(getattr(one, name), getattr(two, name))


@proves(NAME, "loop", "property")
@settings(max_examples=25)
@given(size=st.integers(1, 40), came=st.integers(0, 60), k=st.integers(1, 5), seed=st.integers(0, 99), temperature=st.floats(0.05, 2))
def test_neighbours_equal_brute_force(size, came, k, seed, temperature):
    support = SupportSet(size, 4, generator=seeded(seed))
    support.enqueue(units(came, 4, seed=seed + 1, dtype=torch.float64), torch.arange(came))
    z = torch.randn(6, 4, generator=seeded(seed + 2), dtype=torch.float64)
    k = min(k, size)
    seen = support.rows[: min(came, size) or size].double()
    similarity = torch.stack([torch.stack([(a / a.norm()) @ row for row in seen]) for a in z])
    near, soft = support.nearest(z, k), support.nearest(z, soft_temperature=temperature)
    for b in range(6):
        order = sorted(range(len(seen)), key=lambda j, b=b: -similarity[b, j].item())
        expected = (order + order[:1] * k)[:k]  # the nearest once more, where there are not k
        assert near.ids[b].view(-1).tolist() == expected
        weights = [math.exp(s / temperature) for s in similarity[b].tolist()]
        mean = sum(w * row for w, row in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(
            soft.rows[b], mean / mean.norm(), rtol=0, atol=1e-5
        )  # rows are of length 1 in float32, before a mean near 0
    assert torch.equal(near.rows, support.rows[near.ids])
    assert torch.equal(near.labels, support.labels[near.ids])
    torch.testing.assert_close(near.similarity, similarity.gather(1, near.ids.view(6, -1)).view_as(near.ids))


@proves(NAME, "property")
def test_limits(generator):
    support, z = holding(units(50, 8)), units(6, 8, seed=1)
    hard = support.nearest(z)
    assert torch.equal(hard.ids, support.nearest(z, k=3).ids[:, 0])
    torch.testing.assert_close(support.nearest(z, soft_temperature=1e-3).rows, hard.rows, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        support.nearest(z, soft_temperature=1e6).rows, normalize(support.rows.mean(0), dim=0).expand(6, -1), rtol=0, atol=1e-4
    )
    itself = support.nearest(support.rows[7:9] * 3)
    assert itself.ids.tolist() == [7, 8]
    torch.testing.assert_close(itself.similarity, torch.ones(2))
    similarity = [holding(support.rows[:n]).nearest(z).similarity for n in range(1, 50)]
    assert all((b >= a - 1e-6).all() for a, b in pairwise(similarity))  # a row more never lowers it


def test_the_view_1_control_is_the_limit_of_a_support_set_that_holds_the_sample():
    z, p = units(5, 8), units(5, 8, seed=1)
    support = holding(torch.cat([units(20, 8, seed=2), z]))
    torch.testing.assert_close(nnclr_loss(support.nearest(z).rows, p), nnclr_loss(z, p))


def test_before_any_row_came_the_random_ones_are_searched_and_never_after():
    support = SupportSet(6, 4, generator=seeded())
    start, z = support.rows.clone(), units(3, 4, seed=1)
    assert torch.equal(support.nearest(z).ids, (z @ start.T).argmax(dim=1))
    support.enqueue(z[:1], torch.tensor([5]))
    near = support.nearest(start)  # each random row would be its own nearest
    assert near.ids.tolist() == [0] * 6
    assert near.labels.tolist() == [5] * 6
    torch.testing.assert_close(support.nearest(start, soft_temperature=0.1).rows, z[:1].expand(6, -1))


def test_a_sample_never_meets_itself_and_a_neighbour_survives_the_enqueue():
    """Every neighbour is a row that was there before the step, also after its slot was written over."""
    support = SupportSet(8, 4, generator=seeded())
    support.enqueue(units(8, 4, seed=1))
    for step in range(5):
        z, before = units(3, 4, seed=2 + step), support.rows.clone()
        near = support.nearest(z)
        support.enqueue(z)
        assert torch.equal(near.rows, before[near.ids])
        assert (near.similarity < 0.9999).all()


def exact_rows(count):
    """Rows of length 1 whose products hold no rounding: (+-1/2, +-1/2, +-1/2, +-1/2), each of the sixteen again and again."""
    signs = torch.cartesian_prod(*[torch.tensor([0.5, -0.5])] * 4)
    return signs[torch.arange(count) * 7 % 16]


@pytest.mark.parametrize("numbers", [1, 2**10, 2**22])
@pytest.mark.parametrize("k", [1, 3])
def test_slabs_of_any_size_find_the_same_and_the_first_of_equals(numbers, k, monkeypatch):
    monkeypatch.setattr(_bank, "_numbers", lambda x: numbers)
    rows = exact_rows(300)
    near = holding(rows).nearest(rows[:16], k)
    torch.testing.assert_close(near.similarity, torch.ones(16, k).squeeze(1))
    assert torch.equal(near.rows, rows[:16, None].expand(-1, k, -1).squeeze(1))
    assert torch.equal(near.ids, (torch.arange(16)[:, None] + 16 * torch.arange(k)).squeeze(1))
    falling = (rows[:16] @ rows.T).sort(dim=1, descending=True, stable=True).indices  # five cosines, each of many rows
    assert torch.equal(holding(rows).nearest(rows[:16], 40 * k).ids, falling[:, : 40 * k])
    angles = torch.linspace(-3, 0, 300)
    rising = torch.stack([angles.cos(), angles.sin()], dim=1)  # each row is nearer than all before
    assert _bank._plain(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), rising, None)[1].tolist() == [299, 0]
    rows, z = units(300, 4), units(40, 4, seed=1)
    similarity = (z.double() @ rows.double().T).topk(k, dim=1).values
    torch.testing.assert_close(holding(rows).nearest(z, k).similarity.view(40, k).double(), similarity, rtol=0, atol=1e-6)


def test_the_largest_are_those_of_a_stable_sort(generator):
    """Rows with and without equals, also at the last place, and of equals alone; in steps that a GPU takes without being waited for."""
    s = torch.cat([torch.randn(5, 40, generator=generator), torch.randint(4, (5, 40), generator=generator).float(), torch.zeros(1, 40)])
    for k in (1, 2, 7, 39, 40):
        for part in (s, s[:5], s[:0]):
            for got, expected in zip(_bank._largest(part, k), part.sort(dim=1, descending=True, stable=True), strict=True):
                assert torch.equal(got, expected[:, :k])
    with FakeTensorMode():  # has shapes alone: looking raises
        z, rows = torch.empty(6, 4, device="cuda"), torch.empty(40, 4, device="cuda")
        assert [x.shape for x in _bank._several(z, rows, 3, torch.empty(40, device="cuda"))] == [(6, 3), (6, 3)]


@pytest.mark.parametrize("k", [1, 3])
def test_a_query_that_is_not_finite_moves_no_other(k):
    rows, z = units(300, 4), units(6, 4, seed=1)
    whole = _bank.nearest_rows(z, rows, k)
    z[2] = math.nan
    near = _bank.nearest_rows(z, rows, k)
    others = torch.arange(6) != 2
    assert near[0][2].isnan().all()
    assert torch.equal(near[0][others], whole[0][others])
    assert torch.equal(near[1][others], whole[1][others])
    assert ((near[1] >= 0) & (near[1] < 300)).all()


class TestCoarseSearch:
    """bf16 first, then float32 where there is a doubt: made to run on every CPU, and compared with float64."""

    def test_finds_what_float64_finds(self):
        for size, seed in ((4096, 0), (5000, 1), (33, 2), (32, 3)):
            rows = units(size, 16, seed=seed)
            z = normalize(rows[torch.arange(70) % size] + 0.3 * units(70, 16, seed=9), dim=1)
            similarity, ids = _bank._certified(z, rows)
            exact = z.double() @ rows.double().T
            torch.testing.assert_close(similarity.double(), exact.amax(dim=1), rtol=0, atol=1e-6)
            torch.testing.assert_close(exact.gather(1, ids[:, None])[:, 0], exact.amax(dim=1), rtol=0, atol=1e-6)

    def test_finds_the_nearest_of_rows_that_bf16_cannot_tell_apart(self):
        """Eight rows a query, in other groups, at nearly one cosine: the middle between two bf16 numbers, where any error decides."""
        z = units(100, 64)
        aside = units(100, 8, 64, seed=1)
        aside = normalize(aside - (aside * z[:, None]).sum(dim=2, keepdim=True) * z[:, None], dim=2)
        cosine = 230.5 / 256 + 2e-4 * (torch.rand(100, 8, 1, generator=seeded(2)) - 0.5)
        rows = (cosine * z[:, None] + (1 - cosine**2).sqrt() * aside).flatten(0, 1)  # [100 * 8, 64]
        exact = z.double() @ rows.double().T
        assert (exact.gather(1, _bank._certified(z, rows)[1][:, None])[:, 0] > exact.amax(dim=1) - 1e-6).all()
        coarse = (z.bfloat16() @ rows.bfloat16().T).float()
        assert (exact.gather(1, coarse.argmax(dim=1, keepdim=True))[:, 0] < exact.amax(dim=1) - 1e-6).any()  # it is a test of something

    def test_the_bound_of_its_error_holds(self):
        """Also where every entry lies in the middle between two bf16 numbers, and is rounded the same way."""
        middle = (torch.full((1, 16), 0.25) + 2.0**-10 - 2.0**-16) * torch.tensor([1.0] * 15 + [0.9])
        for z in (middle / middle.norm(), normalize(middle, dim=1), units(64, 256), units(64, 3), units(64, 1)):
            coarse = (z.bfloat16().float() @ z.bfloat16().float().T).bfloat16().double()
            own = (z - z.bfloat16()).norm(dim=1)
            error = (coarse.clamp(max=1) - z.double() @ z.double().T).abs().max()
            assert error < own.max() + own.max() + _bank._ROUNDING

    @pytest.mark.parametrize("case", ["equal rows", "orthogonal", "opposite", "zero", "not finite"])
    def test_without_a_certificate_it_looks_at_all_rows(self, case):
        rows, z = units(1000, 8), units(20, 8, seed=1)
        if case == "equal rows":  # a collapsed bank: every group is a candidate
            rows = rows[:1].expand(1000, -1).contiguous()
        elif case == "orthogonal":
            rows = normalize(rows * torch.tensor([1.0] * 4 + [0.0] * 4), dim=1)
            z = normalize(z * torch.tensor([0.0] * 4 + [1.0] * 4), dim=1)
        elif case == "opposite":
            rows, z = -rows.abs(), z.abs()
        elif case == "zero":
            z[3] = 0
        else:
            z[3] = math.nan
        plain, certified = _bank._plain(z, rows, None), _bank._certified(z, rows)
        torch.testing.assert_close(certified[0], plain[0], rtol=0, atol=1e-6, equal_nan=True)
        exact = z @ rows.T
        torch.testing.assert_close(exact.gather(1, certified[1][:, None])[:, 0], plain[0], rtol=0, atol=1e-6, equal_nan=True)

    def test_the_first_of_equals(self):
        rows = exact_rows(200)  # more than 16 equals, so that a certificate is refused
        assert _bank._certified(rows[:16], rows)[1].tolist() == list(range(16))
        rows = torch.randint(2, (2000, 16), generator=seeded()) * 0.5 - 0.25  # products that hold no rounding
        rows[1000:1016] = rows[700:716] = rows[3:19]  # few equals, in other groups: certified
        assert _bank._certified(rows[700:716], rows)[1].tolist() == (rows[700:716] @ rows.T).argmax(dim=1).tolist() == list(range(3, 19))

    def test_is_what_a_large_search_takes_where_it_is_fast(self, monkeypatch):
        taken = []
        monkeypatch.setattr(_bank, "_certified", lambda *args: taken.append("coarse") or _bank._plain(*args, None))
        support = SupportSet(4096, 8, generator=seeded())
        for fast in (False, True):
            monkeypatch.setattr(_bank, "_fast_bf16", lambda fast=fast: fast)
            support.nearest(units(16, 8))
            assert taken == ["coarse"] * fast
        support.nearest(units(16, 8, dtype=torch.float64))  # has more digits than the bound knows
        support.nearest(units(2, 8))
        assert taken == ["coarse"]

    def test_is_fast_with_matrix_units_alone(self, monkeypatch):
        """AVX-512's bf16 is not enough, and a torch that does not name the instructions gets the plain search."""
        for named, fast in (
            ({"amx_bf16": True}, True),
            ({"avx512_bf16": True, "amx_bf16": False}, False),
            ({"architecture": "aarch64"}, False),
        ):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda named=named: named, raising=False)
            assert _bank._fast_bf16.__wrapped__() is fast
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        assert not _bank._fast_bf16.__wrapped__()


def test_the_hidden_rows_of_a_device_that_is_not_looked_at():
    """On a GPU the number of rows that came stays there, and hides the others by -inf: the same answers on the CPU's."""
    rows, z, filled = units(40, 4), units(6, 4, seed=1), torch.tensor(13)
    hidden = torch.zeros(40).masked_fill(torch.arange(40) >= 13, -torch.inf)
    similarity, ids = _bank._plain(z, rows, hidden)
    expected = _bank.nearest_rows(z, rows, 1, filled)
    assert torch.equal(ids, expected[1][:, 0])
    assert torch.equal(similarity, expected[0][:, 0])
    for k in (3, 13, 20):
        for got, want in zip(_bank._several(z, rows, k, hidden), _bank.nearest_rows(z, rows, k, filled), strict=True):
            assert torch.equal(got, want)


def one_rank(batches, dim, *, group):
    """Four steps of a model under DDP, which holds the support set: rows, loss and parameters of this rank."""
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    shares = [[part.tensor_split([1, 4][: world - 1])[rank] for part in batch] for batch in batches]
    return steps_of(shares, dim, group, seed=rank)  # each rank's own random rows, which DDP's first synchronisation overrules


class Model(torch.nn.Module):
    def __init__(self, dim, seed):
        super().__init__()
        self.layer = torch.nn.Linear(3, dim, bias=False)
        torch.nn.init.eye_(self.layer.weight)
        self.support = SupportSet(11, dim, generator=seeded(seed))

    def forward(self, x):
        return self.layer(x)


def steps_of(batches, dim, group, seed):
    model = Model(dim, seed)
    network = model if group is None else torch.nn.parallel.DistributedDataParallel(model, process_group=group)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.5), []
    for x1, x2, labels in batches:
        z1, z2 = network(torch.cat([x1, x2])).chunk(2)
        near = model.support.nearest(z1)
        queue = info_nce(z2, z1.detach(), negatives=model.support.rows, temperature=0.5, group=group)
        loss = nnclr_loss(near.rows, z2, temperature=0.5, group=group) + queue
        model.support.enqueue(z1, labels, group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), model.layer.weight.detach(), dict(model.support.named_buffers())


@proves(NAME, "worlds")
@pytest.mark.parametrize("world", [1, 2, 3])
def test_unequal_batches_on_several_processes_equal_one(world):
    batches = [(*torch.randn(2, 7, 3, generator=seeded(step)), torch.arange(7) + 7 * step) for step in range(4)]
    losses, weight, buffers = steps_of(batches, 4, None, seed=0)
    for got_losses, got_weight, got_buffers in run_in_processes(one_rank, world, batches, 4):
        torch.testing.assert_close(got_losses, losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got_weight, weight, rtol=1e-4, atol=1e-6)
        for name, expected in buffers.items():
            torch.testing.assert_close(got_buffers[name], expected, rtol=1e-5, atol=1e-6)


def step(support, z, p):
    near = support.nearest(z)
    soft = support.nearest(p, soft_temperature=0.2)
    three = support.nearest(z, k=3)
    loss = nnclr_loss(near.rows, p) + nnclr_loss(soft.rows, p) + info_nce(p, z, negatives=support.rows, temperature=0.2)
    support.enqueue(z, near.labels + 1)
    return loss, three


@proves(NAME, "compile")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_a_compiled_step_is_one_graph_and_equal(backend):
    torch.compiler.reset()
    eager, compiled = (SupportSet(7, 4, generator=seeded()) for _ in range(2))
    fast = torch.compile(partial(step, compiled), fullgraph=True, backend=backend)
    for i in range(5):
        z, p = units(3, 4, seed=2 * i), units(3, 4, seed=2 * i + 1)
        results = []
        for fn in (partial(step, eager), fast):
            leaf = p.clone().requires_grad_()
            loss, three = fn(z, leaf)
            loss.backward()
            results.append((loss.detach(), leaf.grad, three.rows, three.similarity, three.ids, three.labels))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(getattr(compiled, name), buffer, rtol=1e-6, atol=1e-6)


@proves(NAME, "resume")
@pytest.mark.parametrize("before", range(5))
def test_goes_on_exactly_from_a_state_dict(before):
    def one(support):
        count = int(support.steps)
        z = units(3 + count % 3, 4, seed=count)
        near = support.nearest(z)
        support.enqueue(z + near.rows, torch.arange(len(z)) + count)

    resumes(SupportSet(7, 4, generator=seeded()), one, fresh=lambda: SupportSet(7, 4, generator=seeded(1)), before=before)


@proves(NAME, "resume")
def test_gradient_accumulation_has_one_rule():
    """One enqueue of all parts after the last search is one of the whole batch; searches between change nothing."""
    one, two = (SupportSet(7, 4, generator=seeded()) for _ in range(2))
    z = units(6, 4)
    one.enqueue(z)
    found = [two.nearest(part) for part in z.chunk(3)]
    two.enqueue(torch.cat(z.chunk(3)))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(torch.cat([near.ids for near in found]), SupportSet(7, 4, generator=seeded()).nearest(z).ids)


@proves(NAME, "property")
def test_enqueued_before_backward_the_gradients_are_those_of_after():
    gradients = []
    for early in (False, True):
        support, p = holding(units(9, 4)), units(3, 4, seed=1).requires_grad_()
        z = units(9, 4, seed=2)
        near, soft = support.nearest(z[:3]), support.nearest(z[:3], soft_temperature=0.1)
        loss = nnclr_loss(near.rows, p) + nnclr_loss(soft.rows, p) + info_nce(p, z[:3], negatives=support.rows, temperature=0.1)
        if early:
            support.enqueue(z)  # all slots are written over
        loss.backward()
        gradients.append(p.grad)
    assert torch.equal(*gradients)


def test_a_formula_of_ones_own_over_rows_written_since_is_refused_not_wrong():
    support, p = holding(units(9, 4)), units(3, 4, seed=1).requires_grad_()
    loss = (p @ support.rows.T).square().sum()
    support.enqueue(units(2, 4, seed=2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_and_no_graph():
    support, z = holding(units(9, 4)), units(3, 4).requires_grad_()
    near = support.nearest(z * 2)
    support.enqueue(z * 2)
    assert not any(x.requires_grad for x in (near.rows, near.similarity, support.rows))


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_16_bit_embeddings_and_16_bit_rows_are_compared_in_float32(dtype, autocast, stored):
    rows, z = units(200, 16).to(stored), (20 * units(30, 16, seed=1)).to(dtype)
    support = SupportSet(200, 16, dtype=stored)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        support.enqueue(rows)
        near, soft = support.nearest(z), support.nearest(z, soft_temperature=0.05)
    assert support.rows.dtype == stored
    exact = normalize(z.double(), dim=1) @ support.rows.double().T
    assert torch.equal(near.ids, exact.argmax(dim=1))
    torch.testing.assert_close(near.similarity.double(), exact.amax(dim=1), rtol=0, atol=1e-6)
    unit_rows = normalize(support.rows.double(), dim=1)
    mean = normalize((normalize(z.double(), dim=1) @ unit_rows.T / 0.05).softmax(dim=1) @ unit_rows, dim=1)
    torch.testing.assert_close(soft.rows.double(), mean, rtol=0, atol=1e-5)
    support.enqueue(torch.zeros(1, 16, dtype=dtype))
    assert support.rows.isfinite().all()


@proves(NAME, "pickle")
def test_copies_and_pickles(tmp_path):
    support = holding(units(9, 4), torch.arange(9))
    z = units(3, 4, seed=1)
    near = support.nearest(z, k=2)
    for other in (copy.deepcopy(support), pickle.loads(pickle.dumps(support)), copy.deepcopy(support).to(torch.float64)):
        again = other.nearest(z, k=2)
        assert torch.equal(again.ids, near.ids)
        assert torch.equal(again.labels, near.labels)
    (ids,) = run_in_processes(search_elsewhere, 1, support, z)
    assert torch.equal(ids, near.ids)
    same = pickle.loads(pickle.dumps(near))
    assert torch.equal(same.rows, near.rows)
    assert str(support) == "SupportSet(9, 4)"


def search_elsewhere(support, z, *, group):
    return support.nearest(z, k=2).ids


def test_the_generator_decides_the_start():
    assert torch.equal(SupportSet(5, 3, generator=seeded(4)).rows, SupportSet(5, 3, generator=seeded(4)).rows)
    state = torch.get_rng_state()
    SupportSet(5, 3, generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), state)


@proves(NAME, "errors")
def test_wrong_input():
    support, z = SupportSet(5, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"SupportSet.nearest: got z \[2, 4\] with dim=4; expected dim=3 as in rows. To mend: "):
        support.nearest(torch.ones(2, 4))
    with pytest.raises(TypeError, match="SupportSet.nearest: got z of dtype torch.int64; expected a floating dtype"):
        support.nearest(z.long())
    with pytest.raises(ValueError, match="SupportSet.nearest: got k=6; expected k up to 5. To mend: ask for fewer"):
        support.nearest(z, k=6)
    with pytest.raises(ValueError, match="got k=2 with a soft_temperature; expected k=1, as a soft neighbour is made of all rows. To mend"):
        support.nearest(z, k=2, soft_temperature=0.1)
    with pytest.raises(ValueError, match="got soft_temperature=0; expected a finite soft_temperature above 0"):
        support.nearest(z, soft_temperature=0)
    with pytest.raises(ValueError, match="got k=0; expected a whole k from 1 on"):
        support.nearest(z, k=0)
    with pytest.raises(ValueError, match=r"SupportSet.enqueue: got labels \[3\] with batch=3; expected batch=2 as in z"):
        support.enqueue(z, torch.arange(3))
    with pytest.raises(TypeError, match="got labels of dtype torch.float32; expected integers. To mend: pass labels.long"):
        support.enqueue(z, torch.ones(2))
    with pytest.raises(TypeError, match="group: got str"):
        support.enqueue(z, group="world")
    with pytest.raises(ValueError, match="SupportSet: got size=0; expected a whole size from 1 on"):
        SupportSet(0, 3)
    with pytest.raises(ValueError, match="SupportSet: got dtype=torch.int64; expected a floating dtype. To mend"):
        SupportSet(5, 3, dtype=torch.int64)
    assert support.filled == 0  # nothing is moved by a refusal
