"""Gathering with gradient and means over processes, with unequal rows, against one process."""

import pytest
import torch
import torch.distributed as dist

from sslkit.counter import permutation
from sslkit.distributed import all_sum, gather, global_mean, mean_rows, shuffle, unshuffle, world_size
from sslkit.testing import proves, run_in_processes

BLOCKS = [torch.arange(6.0).view(3, 2), torch.empty(0, 2), -torch.ones(2, 2)]


def gather_here(blocks, *, group):
    x = blocks[dist.get_rank(group)].clone().requires_grad_()
    got = gather(x, group)
    weights = torch.arange(got.rows.numel()).view_as(got.rows) * (1 + dist.get_rank(group))
    (got.rows * weights).sum().backward()
    return got.rows.detach(), got.start, got.counts, x.grad


@proves("distributed.gather", "loop", "worlds")
@pytest.mark.parametrize("world", [2, 3])
def test_gather_keeps_rank_order_and_sums_gradients(world):
    blocks = BLOCKS[:world]
    everything = torch.cat(blocks)
    total = sum(range(1, world + 1))
    start = 0
    for (rows, its_start, counts, gradient), block in zip(run_in_processes(gather_here, world, blocks), blocks, strict=True):
        assert torch.equal(rows, everything)
        assert counts == tuple(len(b) for b in blocks)
        assert its_start == start
        expected = torch.arange(everything.numel()).view_as(everything)[start : start + len(block)] * total
        assert torch.equal(gradient, expected.to(gradient.dtype))
        start += len(block)


def sum_here(blocks, *, group):
    x = blocks[dist.get_rank(group)].sum(dim=0).requires_grad_()
    total = all_sum(x, group)
    (total.square() * (1 + dist.get_rank(group))).sum().backward()
    return total.detach(), x.grad


@proves("distributed.all_sum", "loop", "worlds", "property")
@pytest.mark.parametrize("world", [2, 3])
def test_a_sum_over_processes_sums_gradients_too(world):
    blocks = BLOCKS[:world]
    expected = torch.cat(blocks).sum(dim=0)
    for total, gradient in run_in_processes(sum_here, world, blocks):
        assert torch.equal(total, expected)
        assert torch.equal(gradient, 2 * expected * sum(range(1, world + 1)))
    assert all_sum(expected) is expected


def means_here(blocks, *, group):
    x = blocks[dist.get_rank(group)]
    return mean_rows(x, group), global_mean(x.sum(), sum(len(b) for b in blocks), group), world_size(group)


@proves("distributed.global_mean", "loop", "worlds")
@proves("distributed.mean_rows", "loop", "worlds")
def test_means_weigh_every_row_alike():
    everything = torch.cat(BLOCKS)
    for mean, loss, world in run_in_processes(means_here, 3, BLOCKS):
        torch.testing.assert_close(mean, everything.mean(dim=0))
        torch.testing.assert_close(loss, everything.sum() / len(everything))
        assert world == 3


@proves("distributed.gather", "property")
@proves("distributed.global_mean", "property")
@proves("distributed.mean_rows", "property")
def test_alone_nothing_is_sent():
    x = torch.ones(3, 2, requires_grad=True)
    got = gather(x)
    assert got.rows is x
    assert (got.start, got.counts, world_size(None)) == (0, (3,), 1)
    assert global_mean(torch.tensor(0.0), 0) == 0
    assert mean_rows(torch.empty(0, 2, dtype=torch.float16)).dtype == torch.float32


@proves("distributed.all_sum", "errors")
@proves("distributed.gather", "errors")
@proves("distributed.global_mean", "errors")
@proves("distributed.mean_rows", "errors")
def test_a_group_that_is_none():
    for call in (
        lambda: all_sum(torch.ones(1), "world"),
        lambda: gather(torch.ones(1), "world"),
        lambda: global_mean(torch.ones(()), 1, "world"),
        lambda: mean_rows(torch.ones(1, 1), "w"),
    ):
        with pytest.raises(TypeError, match="group: got str; expected a torch.distributed process group.* To mend: pass"):
            call()


def fail_on_one_rank(*, group):
    if dist.get_rank(group) == 1:
        raise ValueError("rank one had enough")
    dist.all_reduce(torch.ones(1), group=group)


def test_a_failing_rank_is_named_and_does_not_hang():
    with pytest.raises(RuntimeError, match="(?s)fail_on_one_rank failed in rank 1 of 2: .*rank one had enough"):
        run_in_processes(fail_on_one_rank, 2)
    assert len(run_in_processes(means_here, 3, BLOCKS)) == 3  # new processes take their place


def shuffled_here(blocks, order, *, group):
    x = blocks[dist.get_rank(group)]
    moved = shuffle(x, order, group)
    return moved, unshuffle(moved * 2, order, group)


@proves("distributed.shuffle", "property", "worlds")
@proves("distributed.unshuffle", "property", "worlds")
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_rows_come_from_all_ranks_and_return(world, seed):
    blocks = [torch.arange(6.0).view(3, 2), torch.arange(10.0).view(5, 2) + 100, torch.empty(0, 2)][:world]
    order = permutation(8, seed=seed, epoch=0)
    moved, back = zip(*run_in_processes(shuffled_here, world, blocks, order), strict=True)
    assert torch.equal(torch.cat(moved), torch.cat(blocks)[order])
    assert [len(m) for m in moved] == [len(b) for b in blocks]
    for got, block in zip(back, blocks, strict=True):
        assert torch.equal(got, block * 2)
    assert torch.equal(unshuffle(shuffle(blocks[1], order[order < 5]), order[order < 5]), blocks[1])  # alone


@proves("distributed.shuffle", "errors")
@proves("distributed.unshuffle", "errors")
def test_an_order_of_another_length():
    for move in (shuffle, unshuffle):
        with pytest.raises(
            ValueError, match=rf"{move.__name__}: got order \[3\]; expected \[2\], the rows of all ranks. To mend: pass counter"
        ):
            move(torch.ones(2, 4), torch.arange(3))
