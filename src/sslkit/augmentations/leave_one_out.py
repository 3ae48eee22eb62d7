"""Views that share one augmentation each with the query (LooC)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Sampler, Size
from sslkit.augmentations.compose import Compose, part
from sslkit.augmentations.quarter_turn import QuarterTurn


@dataclass(frozen=True)
class LeaveOneOut(Sampler[list[Tensor]]):
    """A query, a key with draws of its own, and for each space a key that copies the query's draws there and has its own elsewhere.

        [query, key 0, key 1, ..., key n] = LeaveOneOut(ops, spaces)(images)
        draws of key i = the query's for the ops of spaces[i - 1], whether applied or not included; new ones for all others

    Head i of `looc_loss` so keeps augmentation i, which its positive shares, and ignores all others. `shared` names the heads.

    Parameters: those of each view with "view0." (the query), "view1.", ... in front, and within a view those of `Compose(ops)`.

    Args:
        ops: augmentations, in order; random crop, flip and others without a space are always drawn anew.
        spaces: for each space the places in `ops` of its augmentations: ((0,), (3, 4)) for a turn, and jitter with grey.
        all_shared: no leave-one-out: two views alone, which share the draws of all spaces: the control "same for q and k" of the
            paper's table 1.
        distinct: a `QuarterTurn` of a space is drawn from the turns that the query does not have, by the keys that do not copy it. The
            paper's draws are independent: of three turns, a third of the keys that a head should tell apart have the query's.

    Raises:
        ValueError: no op, or a place that is none of an op, or named twice; distinct of a single turn, without a turn in a space, or with
            all_shared; all_shared without spaces.
        TypeError: an op is not an augmentation of this package.

    Source: Xiao et al. 2021, "What Should Not Be Contrastive in Contrastive Learning", sec. 3, fig. 2.
    """

    ops: Sequence[Augmentation]
    spaces: Sequence[Sequence[int]] = ()
    all_shared: bool = False
    distinct: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        object.__setattr__(self, "spaces", tuple(tuple(space) for space in self.spaces))
        Compose(*self.ops)  # refuses what is no augmentation
        places = [place for space in self.spaces for place in space]
        whole = all(isinstance(place, int) and not isinstance(place, bool) and 0 <= place < len(self.ops) for place in places)
        if not whole or len(set(places)) != len(places) or not all(self.spaces):
            raise wrong("LeaveOneOut", given=f"spaces={self.spaces} of {len(self.ops)} ops", expected="places in ops, each at most once",
                        mend="name for each space the places of its augmentations, whole numbers from 0 on")  # fmt: skip
        if self.all_shared and not places:
            raise wrong("LeaveOneOut", given="all_shared=True without spaces", expected="a space whose draws are shared",
                        mend="name the places of its augmentations, or pass all_shared=False")  # fmt: skip
        if self.distinct and (self.all_shared or not self._turns):
            raise wrong("LeaveOneOut", given=f"distinct=True with spaces={self.spaces}, all_shared={self.all_shared}",
                        expected="a QuarterTurn with a space, and a key that does not copy it",
                        mend="name the turn's place in spaces, without all_shared, or pass distinct=False")  # fmt: skip
        if any(len(set(op.turns)) < 2 for op, _ in self._turns.values()):
            raise wrong("LeaveOneOut", given="distinct turns of a QuarterTurn with one", expected="two or more to choose from",
                        mend="pass QuarterTurn((1, 2, 3)), or distinct=False")  # fmt: skip

    @property
    def shared(self) -> tuple[int, ...]:
        """For each key the head whose augmentation it shares with the query, as `looc_loss` takes it."""
        return (0,) if self.all_shared else tuple(range(len(self.spaces) + 1))

    @property
    def views(self) -> int:
        """The query and its keys."""
        return 1 + len(self.shared)

    @property
    def slots(self) -> int:
        return self.views * self._one.slots

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(f"view{v}.{key}" for v in range(self.views) for key in self._one.keys)

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        slots, turns, drawn = self._one.slots, self._turns, {}
        own = [self._one.parameters(u[:, v * slots : (v + 1) * slots], size) for v in range(self.views)]
        for v, values in enumerate(own):
            copied = self._copied(v)
            for key, value in values.items():
                place = int(key.split(".")[0])
                if v > 0 and place in copied:
                    value = own[0][key]
                elif v > 0 and place in turns:
                    op, slot = turns[place]
                    value = op.others(u[:, v * slots + slot], own[0][key])
                drawn[f"view{v}.{key}"] = value
        return drawn

    def apply(self, images: Tensor, parameters: Parameters) -> list[Tensor]:
        """Applies given parameters: [query, key 0, ..., key n], in the dtype and range of images [batch, channels, height, width].

        Raises:
            TypeError, ValueError: as `apply` of the ops.
        """
        return [self._one.apply(images, part(parameters, f"view{v}.")) for v in range(self.views)]

    @property
    def _one(self) -> Compose:
        return Compose(*self.ops)

    @property
    def _turns(self) -> dict[int, tuple[QuarterTurn, int]]:
        """Place -> turns that must be distinct, and the slot they are drawn from."""
        places = {place for space in self.spaces for place in space} if self.distinct else set()
        starts = accumulate((op.slots for op in self.ops), initial=0)
        drawn = zip(self.ops, starts, strict=False)  # one start more: the end
        return {place: (op, start) for place, (op, start) in enumerate(drawn) if place in places and isinstance(op, QuarterTurn)}

    def _copied(self, view: int) -> set[int]:
        if view == 0:
            return set()
        if self.all_shared:
            return {place for space in self.spaces for place in space}
        return set(self.spaces[view - 2]) if view > 1 else set()
