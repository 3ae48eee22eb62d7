"""GS, MC and RBD: the authors' numbers, loops, batches against single images, objects found, flat images."""

import heapq
import math

import pytest
import torch
from tests.saliency.estimators import CASES, THREE, case, each, scene, squares

from sslkit.evaluation import f_beta, mean_absolute_error
from sslkit.saliency import geodesic_saliency, markov_chain_saliency, robust_background_saliency
from sslkit.saliency._graph import regions, scales, shortest_paths
from sslkit.testing import pickles, proves

NAMES = {"geodesic_saliency": "gs", "markov_chain_saliency": "mc", "robust_background_saliency": "rbd"}
GS, MC, RBD = (f"saliency.{name}" for name in THREE)


@proves(GS, "golden")
@proves(MC, "golden")
@proves(RBD, "golden")
@each
@pytest.mark.parametrize("number", CASES)
def test_official_saliency(golden, number, estimator):
    """On the superpixels given; a frame, objects at the border, clutter: every branch of the authors' code."""
    g, image, labels = case(golden, number)
    expected = g.tensor(f"{NAMES[estimator.__name__]}_saliency_f64")[labels[0]]
    torch.testing.assert_close(estimator(image, superpixels=labels)[0, 0], expected, rtol=0, atol=1e-9)
    truth = g.tensor("gt")[None, None]
    found = estimator(image, superpixels=labels)
    assert f_beta(found, truth).maximum == pytest.approx(g.number(f"fbeta_max_{NAMES[estimator.__name__]}_f64"), abs=1e-6)
    assert mean_absolute_error(found, truth) == pytest.approx(g.number(f"mae_{NAMES[estimator.__name__]}_f64"), abs=1e-6)


@proves(GS, "golden", "half")
@proves(MC, "golden", "half")
@proves(RBD, "golden", "half")
@each
@pytest.mark.parametrize("number", CASES)
def test_levels_and_float32_say_the_same(golden, number, estimator):
    _, image, labels = case(golden, number)
    exact = estimator(image, superpixels=labels)
    levels = case(golden, number, torch.uint8)[1]
    got = estimator(levels, superpixels=labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=5e-4)  # a value on Otsu's threshold moves by so much; else 1e-5
    for dtype in (torch.float16, torch.bfloat16):
        narrow = image.to(dtype)
        assert torch.equal(estimator(narrow, superpixels=labels), estimator(narrow.float(), superpixels=labels))


@proves(RBD, "golden")
@pytest.mark.parametrize("number", CASES)
def test_official_graph_and_scales(golden, number):
    g, image, labels = case(golden, number)
    graph = regions("test", image, labels, lab_first=False, diagonal=False, band=8)
    torch.testing.assert_close(graph.colour[0], g.tensor("lab_mean_rgbfirst_f64"), rtol=0, atol=1e-9)
    torch.testing.assert_close(graph.place[0], g.tensor("pos_f64"), rtol=0, atol=1e-12)
    assert torch.equal(graph.edges[0], g.tensor("adjacency"))
    assert graph.border[0].nonzero().flatten().tolist() == g["boundary8"].tolist()
    found = scales(graph)
    for value, name in ((found.clip, "clip_f64"), (found.geodesic, "geo_sigma_f64"), (found.neighbour, "nei_sigma_f64")):
        assert value.item() == pytest.approx(g.number(name), rel=1e-9)


@proves(GS, "loop")
@pytest.mark.parametrize("seed", range(3))
def test_geodesic_distance_equals_dijkstra(seed):
    """The whole estimator by one heap, on squares."""
    image, _ = scene(seed, side=48)
    labels = squares(48, 6)
    graph = regions("test", image[None].double(), labels, lab_first=False, diagonal=False, band=8)
    n, distance, clip = graph.real.shape[1], graph.distance[0], scales(graph).clip.item()
    border = graph.border[0].tolist()
    place = graph.place[0]
    ring = [i for i in range(n) if border[i]]
    k = max(1, math.floor(5 * n / 200 + 0.5))
    value = {}
    for i in ring:
        unlike = sorted(float(distance[i, j]) / (1 + 3 * float((place[i] - place[j]).norm())) for j in ring if j != i)
        value[i] = sum(unlike[:k]) / k
    low, high = min(value.values()), max(value.values())
    background = [i for i in ring if high - low <= 1 or value[i] - low <= 0.5 * (high - low)]
    best = [math.inf] * n
    heap = [(0.0, i) for i in background]
    while heap:
        cost, i = heapq.heappop(heap)
        if cost < best[i]:
            best[i] = cost
            for j in range(n):
                if j != i and (graph.edges[0, i, j] or (border[i] and border[j])):
                    heapq.heappush(heap, (cost + max(0.0, float(distance[i, j]) - clip), j))
    top = sorted(best, reverse=True)[max(1, math.floor(0.02 * n + 0.5)) - 1]
    cut = [min(1.0, s / top) for s in best]
    expected = torch.tensor([(s - min(cut)) / (max(cut) - min(cut)) for s in cut], dtype=torch.float64)[labels[0]]
    torch.testing.assert_close(geodesic_saliency(image[None].double(), superpixels=labels)[0, 0], expected, rtol=0, atol=1e-9)


@proves(MC, "loop")
def test_absorption_time_equals_the_walk():
    """On the kept graph, the mean time of the chain itself, added up step by step until it has died out."""
    image, _ = scene(1, side=48)
    labels = squares(48, 6)
    got = markov_chain_saliency(image[None].double(), superpixels=labels)[0, 0]
    graph = regions("test", image[None].double(), labels, lab_first=True, diagonal=True, band=1)
    grid = torch.arange(64).view(8, 8)
    steps = graph.edges[0].clone()
    for a, b in ((grid[0], grid[-1]), (grid[:, 0], grid[:, -1])):
        steps[a, b] = steps[b, a] = True
    pairs = (steps | ((steps.double() @ steps.double()) > 0)) & ~torch.eye(64, dtype=torch.bool)
    d = graph.distance[0]
    d = (d - d[pairs].min()) / (d[pairs].max() - d[pairs].min())
    w = torch.where(pairs, (-10 * d).exp() + 1e-5, 0) + torch.eye(64, dtype=torch.float64)
    border = graph.border[0]
    rate = w.sum(dim=1) + w[:, border].sum(dim=1)
    walk, alive, time = w / rate[:, None], torch.eye(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    for _ in range(20000):
        time, alive = time + alive.sum(dim=1), alive @ walk
    assert alive.sum() < 1e-9
    y = (time - time.min()) / (time.max() - time.min())
    bins = (10 * y).long().clamp(max=9)
    assert (torch.minimum(bins + 1, 10 - bins).double().mean() < 2).item()  # else the walk would start evenly
    torch.testing.assert_close(got, y[labels[0]], rtol=0, atol=1e-6)


@proves(RBD, "loop")
def test_the_result_minimises_the_sum_of_the_paper():
    """Moving any region's value makes it larger: the answer before it is stretched, found by descent on the sum itself."""
    image, _ = scene(2, side=24)
    labels, x = squares(24, 6), image[None].double()
    graph = regions("test", x, labels, lab_first=False, diagonal=False, band=8)
    found, distance = scales(graph), graph.distance[0]
    around = graph.border[0][:, None] & graph.border[0]
    costs = torch.where(graph.edges[0] | around, (distance - found.clip).clamp(min=0), torch.inf)
    ways = shortest_paths(costs[None])[0]

    def w(d, sigma):
        return torch.where(d > 3 * sigma, 0, (-d.square() / (2 * sigma**2)).exp())

    near = w(ways, found.geodesic)
    con = near[:, graph.border[0]].sum(dim=1) / near.sum(dim=1).sqrt()
    bg = 1 - (-con.square() / 2).exp()
    apart = (graph.place[0][:, None] - graph.place[0]).norm(dim=2)
    contrast = (distance * w(apart, 0.4) * bg).sum(dim=1)
    contrast = (contrast - contrast.min()) / (contrast.max() - contrast.min())
    level = (255 * contrast + 0.5).floor()
    between = []
    for t in range(256):
        low, high = contrast[level <= t], contrast[level > t]
        share = len(low) / len(contrast)
        spread = share * (1 - share) * (level[level <= t].mean() - level[level > t].mean()) ** 2 if len(low) and len(high) else -1.0
        between.append(float(spread))
    best = [t for t in range(256) if between[t] >= max(between) * (1 - 1e-12)]
    contrast = torch.where(contrast >= sum(best) / len(best) / 255, contrast, 0)
    two = graph.edges[0] | ((graph.edges[0].double() @ graph.edges[0].double()) > 0) | around
    smooth = torch.where(two & ~torch.eye(len(two), dtype=torch.bool), w(distance, found.neighbour), 0) + 0.1 * graph.edges[0].double()
    weight = torch.where(con > 3, 1000, bg)
    s = torch.zeros(len(two), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([s], max_iter=2000, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = (5 * weight * s**2 + contrast * (s - 1) ** 2).sum() + (smooth * (s[:, None] - s) ** 2).sum() / 2
        value.backward()
        return value

    optimizer.step(closure)
    expected = ((s - s.min()) / (s.max() - s.min())).detach()[labels[0]]
    torch.testing.assert_close(robust_background_saliency(x, superpixels=labels)[0, 0], expected, rtol=0, atol=1e-5)


@proves(GS, "property")
@proves(MC, "property")
@proves(RBD, "property")
@each
def test_an_image_is_treated_alike_alone_and_in_a_batch_of_others(golden, estimator):
    """Also where the others have more superpixels: padding is in no mean."""
    images, labels = zip(*(case(golden, number)[1:] for number in CASES), strict=True)
    assert len({int(label.max()) for label in labels}) > 1
    together = estimator(torch.cat(images), superpixels=torch.cat(labels))
    for number in CASES:
        torch.testing.assert_close(together[number], estimator(images[number], superpixels=labels[number])[0], rtol=0, atol=1e-9)


@proves(GS, "property")
@proves(MC, "property")
@proves(RBD, "property")
@each
def test_objects_are_found_by_our_own_superpixels(estimator):
    images, truth = map(torch.stack, zip(*(scene(seed, side=64) for seed in range(6)), strict=True))
    found = estimator(images)
    assert found.shape == (6, 1, 64, 64)
    assert ((found >= 0) & (found <= 1)).all()
    assert f_beta(found, truth[:, None]).maximum > 0.9
    assert mean_absolute_error(found, truth[:, None]) < 0.06


@proves(GS, "property", "pickle")
@proves(MC, "property", "pickle")
@proves(RBD, "property", "pickle")
@each
def test_nothing_stands_out_of_one_colour_or_one_region(estimator):
    flat = torch.full((2, 3, 24, 24), 0.3)
    assert torch.equal(estimator(flat, superpixels=squares(24, 6).expand(2, -1, -1)), torch.zeros(2, 1, 24, 24))
    image = scene(0, 24)[0][None]
    assert torch.equal(estimator(image, superpixels=torch.zeros(1, 24, 24, dtype=torch.int64)), torch.zeros(1, 1, 24, 24))
    pickles(estimator, (scene(3, 24)[0][None],))


@proves(GS, "errors")
@proves(MC, "errors")
@proves(RBD, "errors")
@each
def test_errors(estimator):
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"{estimator.__name__}: got superpixels \[1, 8, 9\] with width=9; expected width=8 as in images"):
        estimator(image, superpixels=torch.zeros(1, 8, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"{estimator.__name__}: got superpixels of dtype torch.float32; expected integers from 0 on"):
        estimator(image, superpixels=torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"got images \[1, 1, 8, 8\] of torch.float32; expected \[batch, 3, height, width\]"):
        estimator(image[:, :1])
