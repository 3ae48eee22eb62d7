"""Several views of each image."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Sampler, Size
from sslkit.augmentations.compose import part


@dataclass(frozen=True)
class MultiCrop(Sampler[list[Tensor]]):
    """Makes a list of views, one per augmentation, each with draws of its own.

        views = MultiCrop((a, a, b))(images)  ->  [view 0 by a, view 1 by a, view 2 by b], each [batch, channels, h_v, w_v]

    Parameters: those of each view with "view0.", "view1.", ... in front. View v uses the slots after those of the views
    before it, so two views of one sample differ, and adding a view at the end changes no earlier one where draws belong
    to the samples (`indices=`).

    Args:
        views: one augmentation per view.

    Raises:
        ValueError: there is no view.
        TypeError: a view is not an augmentation.

    Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", sec. 3.2.
    """

    views: Sequence[Augmentation]

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        if not self.views:
            raise wrong(
                "MultiCrop",
                given="no views",
                expected="one augmentation per view",
                mend="pass views=(augmentation, augmentation)",
            )
        for view in self.views:
            if not isinstance(view, Augmentation):
                raise wrong(
                    "MultiCrop",
                    given=f"a view of type {type(view).__name__}",
                    expected="augmentations of this package",
                    mend="wrap a chain of them in Compose(...)",
                    kind=TypeError,
                )

    @property
    def slots(self) -> int:
        return sum(view.slots for view in self.views)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(f"view{v}.{key}" for v, view in enumerate(self.views) for key in view.keys)

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        drawn: Parameters = {}
        start = 0
        for v, view in enumerate(self.views):
            drawn.update({f"view{v}.{key}": value for key, value in view.parameters(u[:, start : start + view.slots], size).items()})
            start += view.slots
        return drawn

    def apply(self, images: Tensor, parameters: Parameters) -> list[Tensor]:
        """Applies given parameters: the list of views, in the dtype and range of images [batch, channels, height, width].

        Raises:
            TypeError, ValueError: as `apply` of the views.
        """
        return [view.apply(images, part(parameters, f"view{v}.")) for v, view in enumerate(self.views)]
