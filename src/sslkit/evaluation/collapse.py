"""Whether a teacher and a student still say anything: entropies and divergence of DINO's targets."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating
from sslkit.distributed import Group, mean_rows


@dataclass(frozen=True)
class CollapseReport:
    """In nats. A sharp target about every picture, another one for every picture: `entropy` low, `mean_entropy` near `uniform`.

    entropy -> 0 with mean_entropy -> 0: one class for all pictures (no centring). entropy -> uniform: no class for any (no sharpening).
    divergence -> 0: nothing is left to be learned; both kinds of collapse end there.
    """

    entropy: float  # mean over rows of the entropy of a target
    divergence: float  # mean over rows of KL(target || student)
    mean_entropy: float  # entropy of the mean target
    information: float  # mean_entropy - entropy: what the class says of the picture, 0 at collapse
    largest_share: float  # of the mean target, its largest class
    uniform: float  # log of the number of classes

    @property
    def loss(self) -> float:
        """Cross-entropy: entropy + divergence."""
        return self.entropy + self.divergence

    def to_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (f"targets: entropy {self.entropy:.3f}, of their mean {self.mean_entropy:.3f}, uniform {self.uniform:.3f}; "
                f"divergence {self.divergence:.3f}; largest class {100 * self.largest_share:.1f} %")  # fmt: skip


@torch.no_grad()
def collapse_report(teacher_probs: Tensor, student_probs: Tensor, *, group: Group | None = None) -> CollapseReport:
    """Measures targets and the predictions that go with them.

        h  = - mean over b of sum over k of t[b, k] log t[b, k],     t: teacher_probs
        KL = mean over b of sum over k of t[b, k] (log t[b, k] - log s[b, k]),     s: student_probs

    Args:
        teacher_probs: [rows, classes], floating, rows that sum to 1.
        student_probs: [rows, classes], those of the student for the same rows.
        group: rows are those of all these processes.

    Returns:
        `CollapseReport`. 0 log 0 = 0; a class that the teacher expects and the student excludes makes the divergence inf.

    Raises:
        ValueError: the axes disagree.
        TypeError: not floating.

    It reads numbers, so a device is waited for: for a log every so many steps.

    Source: Caron et al. 2021 (DINO), sec. 5.1 and fig. 7.
    """
    sizes = bind_axes("collapse_report", teacher_probs=(teacher_probs, "rows classes"), student_probs=(student_probs, "rows classes"))
    need_floating("collapse_report", teacher_probs=teacher_probs, student_probs=student_probs)
    wide = torch.promote_types(teacher_probs.dtype, torch.float32)
    t, s = teacher_probs.to(wide), student_probs.to(wide)
    own = torch.xlogy(t, t).sum(dim=1)  # [rows]
    rows = torch.stack([-own, own - torch.xlogy(t, s).sum(dim=1)], dim=1)
    entropy, divergence = mean_rows(rows, group).tolist()
    mean = mean_rows(t, group)
    mean_entropy = -torch.xlogy(mean, mean).sum().item()
    largest = mean.max().item() if sizes["classes"] else 0.0
    return CollapseReport(entropy, divergence, mean_entropy, mean_entropy - entropy, largest, math.log(max(sizes["classes"], 1)))
