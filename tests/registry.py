"""The registry of proofs: one line per public component. `python -m tests.registry` writes docs/proofs.md.

A component of a petal that is not listed, and a listed one with a missing cell, fail tests/test_proofs.py.
"""

import json
import subprocess
import sys
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch

from sslkit.backbones import convnet_small
from sslkit.kernels import masked_pixel_loss
from sslkit.losses import (
    barlow_twins_loss,
    basnet_loss,
    byol_loss,
    dcl_loss,
    deepcluster_loss,
    dino_loss,
    dino_mse_loss,
    hard_distillation_loss,
    info_nce,
    masked_cross_entropy,
    masked_mse,
    moco_v3_loss,
    nce_loss,
    nce_normalizer,
    nnclr_loss,
    nt_xent,
    simsiam_loss,
    sinkhorn_knopp,
    soft_distillation_loss,
    spherical_kmeans,
    swav_codes,
    swav_loss,
    vicreg_loss,
)
from sslkit.modules import DINOHead, MLPPredictor, MLPProjector, MomentumEncoder, MultiHeadProjector, Prototypes
from sslkit.saliency import BASNet
from sslkit.targets import PatchPCA, normalized_pixels, unnormalized_pixels
from sslkit.testing import PROOFS, Component
from sslkit.testing.proofs import REQUIRED

ROOT = Path(__file__).parent.parent

NO_NUMBERS = "no official numbers exist for it"
ALONE = "no official numbers exist for it alone"
NO_GRADIENT = "a target carries no gradient"
PLAIN = "every value of its type is right input"
TEACHERS = "it makes a teacher's targets: no gradient flows back"
NO_GROUP = "it takes no group"
FUNCTION = "a function, which has nothing to be copied"
ORACLE = "no official numbers exist; the loop is torchvision's or kornia's function, sample by sample"


def _two_views(generator):
    return tuple(torch.randn(2, 7, 6, generator=generator))


def _students(generator):
    return (torch.randn(3, 4, 6, generator=generator),)


def _targets():
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)


def _projector():
    torch.manual_seed(0)
    return MLPProjector(6, 8, 4)


def _predictor():
    torch.manual_seed(0)
    return MLPPredictor(6, 8)


def _dino_head():
    torch.manual_seed(0)
    head = DINOHead(6, 9, hidden=8, bottleneck=5)
    for weight in head.mlp.parameters():
        weight.data.mul_(25)  # of size 0.5: near 0, where it starts, the unit sphere is too curved for finite differences
    return head


def _itself(loss):
    return loss


def _scores(generator):
    return (torch.randn(1, 3, 2, 6, generator=generator),)


def _distilled(loss):
    return partial(loss, teacher_logits=torch.linspace(-2, 2, 42).view(7, 6).cos())


def _prototypes():
    torch.manual_seed(0)
    return Prototypes(6, 5)


def _heads():
    torch.manual_seed(0)
    return MultiHeadProjector(6, 3, 2)


def _convnet():
    torch.manual_seed(0)
    return convnet_small(width=2)


def _basnet():
    torch.manual_seed(0)
    return BASNet(2, depths=(1, 1, 1, 1)).eval()


def _large_pictures(generator):
    return (torch.rand(2, 3, 32, 32, generator=generator),)


def _maps(generator):
    return (torch.randn(2, 3, 5, 6, generator=generator),)


def _rows(generator):
    return (torch.randn(7, 6, generator=generator),)


def _pictures(generator):
    return (torch.rand(3, 3, 8, 8, generator=generator),)


def _predictions(generator):
    return (torch.randn(3, 4, 48, generator=generator),)


def _pixel_loss():
    images, ids = torch.linspace(0, 1, 576).view(3, 3, 8, 8).sin(), torch.tensor([[2, 0, 3, 1]]).expand(3, -1)
    return partial(masked_pixel_loss, images=images, ids=ids, patch=4)


def _augmentation(name):
    return Component(f"augmentations.{name}", "augmentation", absent={"golden": ORACLE})


def _words(generator):
    return torch.randn(7, 5, generator=generator), torch.randint(5, (7,), generator=generator)


def _pca():
    return PatchPCA(3).fit(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))


COMPONENTS = [
    Component(
        "losses.nt_xent",
        "loss",
        lambda: partial(nt_xent, temperature=0.2),
        _two_views,
        ("gradcheck", "worlds", "compile", "half", "pickle"),
    ),
    *(
        Component(f"losses.{loss.__name__}", "loss", partial(partial, loss, temperature=0.2), _two_views, proofs)
        for loss, proofs in (
            (info_nce, ("gradcheck", "worlds", "compile", "half", "pickle")),
            (dcl_loss, ("gradcheck", "worlds", "compile", "half", "pickle")),
            (moco_v3_loss, ("worlds", "pickle")),  # the others of these hold one side fixed, which learns nothing
            (nnclr_loss, ("worlds", "pickle")),
        )
    ),
    Component(
        "losses.masked_mse",
        "loss",
        lambda: partial(masked_mse, target=torch.linspace(-1, 1, 42).view(7, 6)),
        _rows,
        ("gradcheck", "compile", "half", "pickle"),
        {"worlds": NO_GROUP},
    ),
    Component(
        "losses.masked_cross_entropy",
        "loss",
        lambda: masked_cross_entropy,
        _words,
        ("gradcheck", "compile", "half", "pickle"),
        {"worlds": NO_GROUP},
    ),
    Component("losses.dino_loss", "loss", lambda: partial(dino_loss, teacher_probs=_targets()), _students, ("pickle",)),
    Component("losses.DINOCenter", "module", absent={"gradcheck": TEACHERS}),
    Component(
        "losses.dino_mse_loss",
        "loss",
        lambda: partial(dino_mse_loss, teacher=_targets()),
        _students,
        ("pickle",),
        {"golden": "the official code of that row was never published"},
    ),
    Component(
        "losses.sinkhorn_knopp", "loss", lambda: partial(sinkhorn_knopp, temperature=0.1), _rows, ("pickle",), {"gradcheck": TEACHERS}
    ),
    Component("losses.ibot_loss", "loss"),
    *(
        Component(
            f"losses.{loss.__name__}",
            "loss",
            partial(_distilled, loss),
            _rows,
            ("gradcheck", "compile", "half", "pickle"),
            {"worlds": NO_GROUP},
        )
        for loss in (soft_distillation_loss, hard_distillation_loss)
    ),
    Component("losses.koleo_loss", "loss", absent={"worlds": NO_GROUP}),
    *(
        Component(f"losses.{loss.__name__}", "loss", partial(_itself, loss), _two_views, ("compile", "half", "pickle"))
        for loss in (byol_loss, simsiam_loss)
    ),
    *(
        Component(
            f"losses.{loss.__name__}", "loss", partial(_itself, loss), _two_views, ("gradcheck", "worlds", "compile", "half", "pickle")
        )
        for loss in (barlow_twins_loss, vicreg_loss)
    ),
    Component("losses.swav_codes", "loss", lambda: swav_codes, _students, ("pickle",), {"gradcheck": TEACHERS}),
    Component("losses.swav_loss", "loss", lambda: partial(swav_loss, codes=_targets()), _students, ("pickle",)),
    Component(
        "losses.deepcluster_loss", "loss", lambda: partial(deepcluster_loss, assignments=torch.tensor([[2, -1]])), _scores, ("pickle",)
    ),
    Component("losses.spherical_kmeans", "evaluation", lambda: partial(spherical_kmeans, centroids=torch.eye(6)[:3]), _rows, ("pickle",)),
    Component("losses.looc_loss", "loss"),
    Component(
        "losses.basnet_loss",
        "loss",
        lambda: partial(basnet_loss, masks=torch.ones(2, 1, 5, 6).tril()),
        _maps,
        ("gradcheck", "compile", "half", "pickle"),
        {"golden": NO_NUMBERS, "worlds": NO_GROUP},
    ),
    Component("losses.nce_loss", "loss", lambda: partial(nce_loss, normalizer=9.0, size=9), _rows, ("pickle",)),
    Component("losses.nce_normalizer", "evaluation", lambda: partial(nce_normalizer, size=9), _rows, ("pickle",)),
    Component("maskers.TokenMask", "masker", absent={"golden": "a container, whose golden masks are RandomMasker's"}),
    Component("maskers.RandomMasker", "masker"),
    Component("maskers.GridMasker", "masker", absent={"golden": "it is not in the official repository"}),
    *(Component(f"maskers.{name}", "masker") for name in ("BlockwiseMasker", "TubeMasker", "FrameMasker", "CubeMasker")),
    Component("maskers.CellMasker", "masker", absent={"golden": NO_NUMBERS}),
    Component(
        "maskers.MultiBlockMasker",
        "masker",
        absent={"golden": NO_NUMBERS, "compile": "its blocks' sizes, which are shapes, are drawn on the host: it belongs into the loader"},
    ),
    Component("kernels.gather_patches", "target"),
    Component("kernels.gather_tokens", "target"),
    Component("kernels.soft_cross_entropy", "target", absent={"golden": ALONE}),
    Component("kernels.scatter_tokens", "target", absent={"golden": ALONE}),
    Component("kernels.replace_tokens", "target", absent={"golden": ALONE}),
    Component(
        "kernels.masked_pixel_loss",
        "loss",
        _pixel_loss,
        _predictions,
        ("gradcheck", "compile", "half", "pickle"),
        {"worlds": NO_GROUP},
    ),
    *(Component(f"{home}.hog", "target", absent={"gradcheck": NO_GRADIENT}) for home in ("kernels", "targets")),
    Component(
        "targets.normalized_pixels",
        "target",
        lambda: partial(normalized_pixels, patch=4),
        _pictures,
        ("compile",),
        {"gradcheck": NO_GRADIENT},
    ),
    Component(
        "targets.unnormalized_pixels",
        "target",
        lambda: partial(unnormalized_pixels, images=torch.linspace(0, 1, 576).view(3, 3, 8, 8), patch=4),
        _predictions,
        ("compile",),
        {"gradcheck": NO_GRADIENT, "golden": NO_NUMBERS},
    ),
    *(
        Component(f"targets.{name}", "target", absent={"golden": NO_NUMBERS, "gradcheck": NO_GRADIENT})
        for name in ("features", "pseudo_labels")
    ),
    Component("targets.DVAE", "target", absent={"gradcheck": "it computes in float32, whatever comes in: a rounded logit is another word"}),
    Component("targets.PatchPCA", "target", _pca, _rows, ("gradcheck", "compile"), {"golden": NO_NUMBERS}),
    Component(
        "modules.MLPProjector",
        "module",
        _projector,
        _rows,
        ("gradcheck", "compile", "half", "pickle"),
        {"golden": NO_NUMBERS, "worlds": NO_GROUP},
    ),
    Component(
        "modules.MLPPredictor",
        "module",
        _predictor,
        _rows,
        ("gradcheck", "compile", "half", "pickle"),
        {"golden": NO_NUMBERS, "worlds": NO_GROUP},
    ),
    Component("modules.DINOHead", "module", _dino_head, _rows, ("gradcheck", "compile", "half", "pickle"), {"worlds": NO_GROUP}),
    Component(
        "modules.MomentumEncoder",
        "module",
        lambda: MomentumEncoder(_dino_head()),
        _rows,
        ("compile", "half", "pickle"),
        {"gradcheck": TEACHERS},
    ),
    Component(
        "modules.Prototypes",
        "module",
        _prototypes,
        _rows,
        ("gradcheck", "compile", "half", "pickle"),
        {"golden": ALONE, "worlds": NO_GROUP},
    ),
    Component("modules.MemoryBank", "module"),
    Component(
        "modules.MultiHeadProjector",
        "module",
        _heads,
        _rows,
        ("gradcheck", "compile", "half", "pickle"),
        {"golden": ALONE, "worlds": NO_GROUP},
    ),
    Component("modules.SupportSet", "module", absent={"gradcheck": "what it gives carries no gradient"}),
    Component("modules.encode_views", "stem"),
    Component(
        "backbones.convnet_small",
        "module",
        _convnet,
        _pictures,
        ("gradcheck", "compile", "pickle"),
        {"golden": NO_NUMBERS, "worlds": NO_GROUP},
    ),
    Component("backbones.ViT", "module", absent={"worlds": NO_GROUP}),
    Component("backbones.MAE", "module", absent={"worlds": NO_GROUP}),
    Component("backbones.load_official", "evaluation"),
    Component("backbones.adapt", "module", absent={"worlds": NO_GROUP}),
    Component("backbones.export", "evaluation"),
    Component("backbones.maskfeat_mvit", "evaluation", absent={"golden": NO_NUMBERS}),
    _augmentation("RandomResizedCrop"),
    _augmentation("HorizontalFlip"),
    _augmentation("ColorJitter"),
    _augmentation("Grayscale"),
    _augmentation("Solarize"),
    _augmentation("GaussianBlur"),
    _augmentation("Normalize"),
    _augmentation("Compose"),
    Component("augmentations.CopyPaste", "augmentation"),
    *(
        Component(f"augmentations.{name}", "augmentation", absent={"golden": NO_NUMBERS})
        for name in ("LeaveOneOut", "QuarterTurn", "RandomTexture", "looc")
    ),
    Component("augmentations.ImageBackgrounds", "augmentation", absent={"golden": NO_NUMBERS}),
    _augmentation("MultiCrop"),
    *(Component(f"augmentations.{name}", "augmentation") for name in ("PairedCrop", "beit")),
    *(_augmentation(name) for name in ("dino", "moco_v2", "nnclr")),
    _augmentation("simclr"),
    _augmentation("supervised"),
    *(
        Component(f"saliency.{name}", "augmentation", absent={"compile": "how many regions there are is read from their labels"})
        for name in ("geodesic_saliency", "markov_chain_saliency", "robust_background_saliency")
    ),
    Component("saliency.BASNet", "module", _basnet, _large_pictures, ("compile", "half", "pickle"), {"worlds": NO_GROUP}),
    Component("saliency.superpixels", "augmentation", absent={"compile": "it runs in a loader, once a picture", "golden": NO_NUMBERS}),
    *(
        Component(f"saliency.{name}", "evaluation", absent={"golden": NO_NUMBERS})
        for name in ("class_activation_map", "gradient_saliency", "attention_saliency")
    ),
    *(Component(f"evaluation.{name}", "evaluation") for name in ("f_beta", "mean_absolute_error")),
    Component("evaluation.knn_classify", "evaluation"),
    Component("evaluation.attention_masks", "evaluation"),
    Component("evaluation.jaccard", "evaluation", absent={"half": "it takes masks and labels alone"}),
    Component("evaluation.collapse_report", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.linear_probe", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.few_shot", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.nearest_neighbours", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.neighbour_match_accuracy", "evaluation", absent={"half": "it takes labels alone"}),
    Component("evaluation.probe_features", "evaluation"),
    Component("evaluation.multiscale_features", "evaluation"),
    Component("evaluation.extract_features", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.top_accuracy", "evaluation", absent={"golden": NO_NUMBERS}),
    Component("evaluation.semi_supervised_subset", "evaluation", absent={"golden": NO_NUMBERS, "half": "it takes labels alone"}),
    Component("datasets.Scenes", "dataset"),
    Component("datasets.SceneVideos", "dataset"),
    Component("datasets.Folder", "dataset"),
    Component("datasets.ClipFolder", "dataset"),
    Component("datasets.uniform_frames", "dataset", absent={"pickle": FUNCTION}),
    Component("datasets.digits", "dataset", absent={"pickle": FUNCTION}),
    Component("datasets.torchvision_dataset", "dataset", absent={"pickle": FUNCTION}),
    Component("datasets.copy_attack", "dataset", absent={"pickle": FUNCTION}),
    Component("datasets.retrieval_labels", "dataset", absent={"pickle": FUNCTION}),
    *(Component(f"patches.{name}", "stem") for name in ("patchify", "unpatchify", "grid_of")),
    *(Component(f"schedules.{name}", "stem") for name in ("cosine", "linear", "warmup_cosine")),
    *(Component(f"optim.{name}", "stem") for name in ("layer_decay_groups", "dino_groups", "clip_each", "drop_gradients")),
    *(Component(f"counter.{name}", "stem") for name in ("uniforms", "keys", "uniform")),
    *(Component(f"counter.{name}", "stem", absent={"errors": PLAIN}) for name in ("permutation", "mix", "bits", "integer", "stream")),
    Component("plots.attention_heads", "plot"),
    *(Component(f"distributed.{name}", "stem") for name in ("all_sum", "gather", "global_mean", "mean_rows", "shuffle", "unshuffle")),
    Component("plots.attention_sheet", "plot"),
    Component("plots.contact_sheet", "plot"),
    Component("plots.hog_glyphs", "plot"),
    Component("plots.mask_sheet", "plot"),
    Component("plots.neighbour_picture", "plot"),
    Component("plots.reconstruction_sheet", "plot"),
    Component("plots.curve_panels", "plot"),
    Component("plots.curves", "plot"),
]


@lru_cache
def marked() -> dict[tuple[str, str], list[str]]:
    """(component, proof) -> tests marked `@proves(component, ..., proof, ...)`. All tests are collected, whatever this run selects."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "marks.json"
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--marks", str(file), str(ROOT / "tests")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        cells: dict[tuple[str, str], list[str]] = {}
        for component, proof, test in json.loads(file.read_text()):
            cells.setdefault((component, proof), []).append(test)
    return cells


def missing(component: Component, cells: dict[tuple[str, str], list[str]]) -> list[str]:
    """Required proofs that are neither mechanical, nor marked on a test, nor excused."""
    return [
        proof
        for proof in REQUIRED[component.kind]
        if proof not in component.mechanical and proof not in component.absent and (component.name, proof) not in cells
    ]


def table() -> str:
    """docs/proofs.md."""
    cells = marked()
    lines = [
        "# What is proven",
        "",
        "Made by `python -m tests.registry` from the tests. A tick is a test that runs in `make test`; an empty cell does not apply.",
        "A component that lacks a required cell without a reason fails the tests.",
        "",
        *[f"- **{name}**: {meaning}." for name, meaning in PROOFS.items()],
        "",
        "| component | " + " | ".join(PROOFS) + " |",
        "|---|" + "---|" * len(PROOFS),
    ]
    reasons: list[str] = []
    for component in COMPONENTS:
        row = []
        for proof in PROOFS:
            if proof in component.mechanical or (component.name, proof) in cells:
                row.append("✓")
            elif proof in component.absent and proof in REQUIRED[component.kind]:
                reason = component.absent[proof]
                if reason not in reasons:
                    reasons.append(reason)
                row.append(f"[{reasons.index(reason) + 1}]")
            else:
                row.append("")
        lines.append(f"| `{component.name}` | " + " | ".join(row) + " |")
    lines += ["", *[f"{i}. {reason}." for i, reason in enumerate(reasons, 1)], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "proofs.md").write_text(table())
