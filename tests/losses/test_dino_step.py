"""The whole step of DINO, made of public parts, against every number of the official one."""

import io
import math

import pytest
import torch
from torch import nn

from sslkit.backbones import ViT
from sslkit.losses import DINOCenter, dino_loss
from sslkit.modules import DINOHead, MomentumEncoder, encode_views
from sslkit.optim import clip_each, dino_groups, drop_gradients
from sslkit.schedules import cosine, linear
from sslkit.testing import proves

SIZES = ("dim", "depth", "heads", "patch", "global_size", "local_size", "prototypes", "hidden", "bottleneck", "batch", "local", "epochs",
         "steps", "frozen")  # fmt: skip


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, c, norm_last_layer):
        super().__init__()
        self.backbone = ViT(c["global_size"], c["patch"], c["dim"], c["depth"], c["heads"], resample="offset", init="dino")
        self.head = DINOHead(c["dim"], c["prototypes"], hidden=c["hidden"], bottleneck=c["bottleneck"], norm_last_layer=norm_last_layer)

    def forward(self, crops):
        return self.head(encode_views(lambda images: self.backbone(images).pooled(), crops))  # [views, batch, prototypes]


def schedule(array, *, warmup=0):
    """The cosine through an official array, whose end value is not stored: it is what the last step's value says."""
    values, n = array.tolist(), len(array) - warmup
    share = (1 + math.cos(math.pi * (n - 1) / n)) / 2
    base = values[warmup]
    settings = {
        "base": base,
        "final": (values[-1] - base * share) / (1 - share),
        "steps": len(values),
        "warmup": warmup,
        "start": values[0],
    }
    assert [cosine(i, **settings) for i in range(len(values))] == pytest.approx(values, abs=1e-12)
    return lambda step: cosine(step, **settings)


class Run:
    """Student, teacher, centre and optimiser of the official run, and its epochs one by one."""

    def __init__(self, g, dtype=torch.float64):
        self.g, self.dtype, self.config = g, dtype, dict(zip(SIZES, g["config"].tolist(), strict=True))
        self.student = Network(self.config, bool(g["norm_last_layer"]))
        self.student.load_state_dict({name.removeprefix("init/"): g.tensor(name) for name in g if name.startswith("init/")})
        self.student.to(dtype)
        self.teacher, self.center = MomentumEncoder(self.student), DINOCenter(self.config["prototypes"]).to(dtype)
        self.optimizer = torch.optim.AdamW(dino_groups(self.student))
        self.rate, self.momentum = schedule(g["lr"], warmup=int(g["lr"].argmax()) + 1), schedule(g["momentum"])
        self.decay = schedule(g["wd"])
        self.saved = {"student": self.student, "teacher": self.teacher, "center": self.center, "optimizer": self.optimizer}

    def epoch(self, epoch):
        temperature = linear(epoch, start=0.04, final=0.06, steps=1)
        return [self.step(epoch, i, temperature) for i in range(self.config["steps"])]

    def step(self, epoch, i, temperature):
        now = epoch * self.config["steps"] + i
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(now)
        self.optimizer.param_groups[0]["weight_decay"] = self.decay(now)
        crops = [self.g.tensor(f"data/epoch{epoch}/it{i}/crop{j}", self.dtype) for j in range(2 + self.config["local"])]
        logits = self.teacher(crops[:2])
        loss = dino_loss(self.student(crops), self.center(logits, temperature))
        self.center.update(logits)
        self.optimizer.zero_grad()
        loss.backward()
        clip_each(self.student.parameters(), self.g.number("clip_grad"))
        if epoch < self.config["frozen"]:
            drop_gradients(self.student, "last_layer")
        self.optimizer.step()
        self.teacher.update(self.momentum(now))
        return loss.item()


@proves("losses.dino_loss", "golden")
@proves("losses.DINOCenter", "golden")
@proves("modules.DINOHead", "golden")
@proves("modules.MomentumEncoder", "golden")
@proves("optim.clip_each", "golden")
@proves("optim.dino_groups", "golden")
@proves("optim.drop_gradients", "golden")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_official_steps(golden, dtype):
    """float64: losses to 1e-7 of their size, every parameter to 1e-7 after each epoch. float32: losses and centre alone, because Adam
    divides gradients that are nearly zero by their own size."""
    g = golden("dino_train_steps")
    double = dtype == torch.float64
    rtol, bits = (1e-7, "f64") if double else (1e-5, "f32")
    run, losses = Run(g, dtype), []
    prototypes = run.student.head.last_layer.weight_v
    start = prototypes.detach().clone()
    for epoch in range(run.config["epochs"]):
        losses += run.epoch(epoch)
        assert losses == pytest.approx(g[f"losses_{bits}"][: len(losses)].tolist(), rel=rtol)
        expected = g.tensor(f"after_epoch{epoch}/center_{bits}", dtype).flatten()
        torch.testing.assert_close(run.center.value, expected, rtol=rtol, atol=1e-7)
        assert torch.equal(prototypes, start) == (epoch < run.config["frozen"])
        for who, network in (("student", run.student), ("teacher", run.teacher.teacher)):
            prefix = f"after_epoch{epoch}/{who}/"
            names = {name.removeprefix(prefix) for name in g if name.startswith(prefix)}
            assert names == set(network.state_dict())
            for name in names if double else ():
                torch.testing.assert_close(network.state_dict()[name], g.tensor(prefix + name), rtol=0, atol=1e-7, msg=f"{who} {name}")


@proves("optim.dino_groups", "golden")
def test_official_parameter_groups(golden):
    g = golden("dino_train_steps")
    student = Run(g).student
    names = {id(p): name for name, p in student.named_parameters()}
    assert [sorted(names[id(p)] for p in group["params"]) for group in dino_groups(student)] == [
        sorted(g["group0_names"].tolist()),
        sorted(g["group1_names"].tolist()),
    ]


@proves("modules.MomentumEncoder", "resume")
@proves("modules.DINOHead", "resume")
def test_a_run_that_was_saved_in_between_goes_on_exactly(golden):
    """Saved after the first epoch and loaded into another start: bit for bit the unbroken run."""
    g = golden("dino_train_steps")
    run, file = Run(g), io.BytesIO()
    run.epoch(0)
    torch.save({name: part.state_dict() for name, part in run.saved.items()}, file)
    file.seek(0)
    other = Run(g)
    for parameter in other.student.parameters():
        parameter.data.fill_(0.1)
    for name, state in torch.load(file, weights_only=True).items():
        other.saved[name].load_state_dict(state)
    assert other.epoch(1) == run.epoch(1)
    for name in ("student", "teacher", "center"):
        for key, value in run.saved[name].state_dict().items():
            assert torch.equal(other.saved[name].state_dict()[key], value), f"{name} {key}"
