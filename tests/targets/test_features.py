"""Features and classes of a frozen network at every token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.backbones.adapted import torchvision_vit
from torch import nn

from sslkit.backbones import ViT, adapt, convnet_small
from sslkit.maskers import RandomMasker
from sslkit.targets import features, pseudo_labels
from sslkit.testing import proves

BOTH = ("targets.features", "targets.pseudo_labels")
both = pytest.mark.parametrize("function", [features, pseudo_labels])


def proves_both(*proofs):
    def mark(test):
        for name in BOTH:
            test = proves(name, *proofs)(test)
        return test

    return mark


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vit(tubelet=None):
    torch.manual_seed(0)
    return ViT((16, 24), 8, 32, 1, 1, tubelet=tubelet, frames=tubelet and 4).eval()


def bilinear(maps, at_y, at_x):
    """The value between the centres of cells, the outermost ones reaching to the border: [dim]."""
    _, height, width = maps.shape
    y, x = (min(max(v, 0), n - 1) for v, n in ((at_y, height), (at_x, width)))
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = maps[:, y0, x0] * (1 - (x - x0)) + maps[:, y0, x1] * (x - x0)
    bottom = maps[:, y1, x0] * (1 - (x - x0)) + maps[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


@proves_both("loop", "property")
@given(have=st.tuples(st.integers(1, 5), st.integers(1, 5)), want=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=st.integers(0, 99))
def test_a_map_on_the_grid_of_the_tokens(have, want, seed):
    """A token's centre (y + 1/2) / h lies at (y + 1/2) H / h - 1/2 among the centres of the map's cells."""
    maps = torch.randn(2, 3, *have, generator=seeded(seed), dtype=torch.float64)
    images = torch.zeros(2, 3, 4, 4)
    got, classes = features(lambda _: maps, images, grid=want), pseudo_labels(lambda _: maps, images, grid=want)
    bare = features(lambda _: maps, images, grid=want, normalize=False)
    for b in range(2):
        for n in range(want[0] * want[1]):
            y, x = divmod(n, want[1])
            value = bilinear(maps[b], (y + 0.5) * have[0] / want[0] - 0.5, (x + 0.5) * have[1] / want[1] - 0.5)
            torch.testing.assert_close(bare[b, n], value)
            torch.testing.assert_close(got[b, n], value / value.norm())
            assert value[classes[b, n]] >= value.max() - 1e-9


@proves_both("property")
def test_networks_of_every_kind():
    images = torch.rand(2, 3, 16, 24, generator=seeded())
    network, teacher = convnet_small().eval(), vit()
    torch.testing.assert_close(features(network.maps, images), nn.functional.normalize(network.maps(images), dim=1).flatten(2).mT)
    tokens = features(teacher, images)
    torch.testing.assert_close(tokens, nn.functional.normalize(teacher(images).patches, dim=-1))
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 6))
    assert pseudo_labels(teacher, images).equal(teacher(images).patches.argmax(-1))
    mask = RandomMasker(count=2)(2, (2, 3), generator=seeded())
    assert features(teacher, images, ids=mask.ids_hidden).equal(mask.hidden(tokens))
    assert pseudo_labels(teacher, images, ids=mask.ids_hidden).equal(pseudo_labels(teacher, images).gather(1, mask.ids_hidden))
    clips = torch.rand(2, 3, 4, 16, 24, generator=seeded())
    video = vit(tubelet=2)
    assert features(video, clips).equal(nn.functional.normalize(video(clips).patches, dim=-1))
    assert features(video, clips, grid=(4, 4, 6)).shape == (2, 96, 32)
    same = features(lambda x: x.new_ones(2, 3, 2, 2), images, grid=(5, 7))  # a constant map stays that
    torch.testing.assert_close(same, torch.full((2, 35, 3), 3**-0.5))


@proves_both("property")
def test_the_loss_on_unit_features_is_a_cosine():
    teacher, images = vit(), torch.rand(2, 3, 16, 24, generator=seeded())
    target = features(teacher, images)
    prediction = nn.functional.normalize(torch.randn(target.shape, generator=seeded(1)), dim=-1)
    error = (prediction - target).square().sum(-1)
    torch.testing.assert_close(error, 2 - 2 * torch.cosine_similarity(prediction, target, dim=-1))
    assert features(lambda x: torch.zeros(2, 3, 1, 1), images).eq(0).all()  # no direction: 0, not NaN


@both
def test_nothing_moves_and_nothing_flows_back(function):
    teacher, images = convnet_small().eval(), torch.rand(2, 3, 16, 16, generator=seeded(), requires_grad=True)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    out = function(nn.Sequential(teacher.stages).eval(), images)
    assert not out.requires_grad
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())


def test_a_users_model_is_a_teacher_through_adapt():
    """DINO's and the supervised kind: its own patch tokens, normalised, on its grid or on the student's."""
    teacher, images = adapt(torchvision_vit().eval()), torch.rand(2, 3, 16, 16, generator=seeded())
    tokens = teacher(images)
    torch.testing.assert_close(features(teacher, images), nn.functional.normalize(tokens.patches, dim=-1).detach())
    maps = tokens.patches.mT.unflatten(-1, tokens.grid)
    torch.testing.assert_close(features(teacher, images, grid=(3, 5)), features(lambda _: maps, images, grid=(3, 5)))


@both
def test_a_method_may_use_a_frozen_part_of_what_is_trained(function):
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.teacher = nn.Linear(2, 2), convnet_small().eval()

        def seen(self, images):
            return self.teacher.stages(images)

    student, images = Student(), torch.rand(2, 3, 16, 16, generator=seeded())
    assert student.training
    assert torch.equal(function(student.seen, images), function(student.teacher.stages, images))


@proves_both("compile")
@both
def test_compiles_in_one_graph(function):
    torch.compiler.reset()
    network, images = convnet_small().eval(), torch.rand(2, 3, 16, 16, generator=seeded())
    compiled = torch.compile(lambda x: function(network.stages, x, grid=(3, 3)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), function(network.stages, images, grid=(3, 3)))


@proves_both("half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_16_bit_maps_are_resized_and_normalised_in_float32(dtype, autocast):
    maps, images = torch.randn(2, 5, 3, 3, generator=seeded()).to(dtype), torch.zeros(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        got, classes = features(lambda _: maps, images, grid=(4, 4)), pseudo_labels(lambda _: maps, images, grid=(4, 4))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, features(lambda _: maps.float(), images, grid=(4, 4)))
    assert classes.equal(pseudo_labels(lambda _: maps.float(), images, grid=(4, 4)))


@proves_both("errors")
@both
def test_wrong_input(function):
    images, name = torch.rand(2, 3, 8, 8), function.__name__
    for model, options, message in [
        (convnet_small().stages, {}, f"{name}: got a model whose .* is in training mode; expected a frozen model"),
        (nn.Sequential(nn.Identity(), nn.Dropout().train()).eval().append(nn.Dropout()), {}, "whose 2 is in training mode"),
        (convnet_small().maps, {}, f"{name}: got a model whose .* is in training mode"),
        (lambda x: x, {"grid": (0, 2)}, r"got grid \(0, 2\) .* expected 2 axes from 1 on"),
        (convnet_small().eval(), {}, rf"{name}: got \[2, 96\] from the model; expected tokens with .patches and .grid, or a map"),
        (lambda x: {"out": x}, {}, f"{name}: got dict from the model"),
        (lambda x: x, {"grid": (2, 2, 2)}, rf"{name}: got grid \(2, 2, 2\) for a map \[2, 3, 8, 8\]; expected 2 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(model, images, **options)
