"""What every encoder checks of the masks it is given."""

from typing import TYPE_CHECKING

from torch import Tensor

from sslkit._checks import wrong

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask


def need_both(where: str, replace: "TokenMask | None", mask_token: Tensor | None) -> None:
    """Raises a ValueError if one of the two comes alone."""
    if (replace is None) != (mask_token is None):
        raise wrong(where, given="replace without mask_token" if mask_token is None else "mask_token without replace", expected="both",
                    mend="pass the learned token that stands for hidden patches with the mask that says where")  # fmt: skip


def check_mask(where: str, name: str, mask: "TokenMask", batch: int, grid: tuple[int, ...]) -> None:
    """Raises a ValueError if the mask is for another batch or grid than the images."""
    if tuple(mask.grid) != grid or mask.mask.shape[0] != batch:
        raise wrong(where, given=f"{name} for batch {mask.mask.shape[0]} and grid {tuple(mask.grid)}",
                    expected=f"batch {batch} and grid {grid}, as the images have",
                    mend="draw the mask with masker(batch, grid)")  # fmt: skip
