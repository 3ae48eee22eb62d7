"""Who should be found for a query, and who does not count: the truth of the retrieval test."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong

Protocol = Literal["medium", "hard"]


@dataclass(frozen=True)
class RetrievalTruth:
    """One int64 tensor of database rows per query, ascending: `positives` should come first; `junk` is taken out of the
    ranking."""

    positives: tuple[Tensor, ...]
    junk: tuple[Tensor, ...]


def retrieval_labels(
    query_labels: Tensor,
    query_family: Tensor,
    database_labels: Tensor,
    database_family: Tensor,
    *,
    protocol: Protocol = "medium",
    query_rows: Tensor | None = None,
) -> RetrievalTruth:
    """Positives and junk of every query.

        medium: positive = same class                                       no junk
        hard:   positive = same class on another family of background       junk = same class on the same family

    Args:
        query_labels: [queries] integers, the class.
        query_family: [queries] integers, the kind of background.
        database_labels: [database] integers.
        database_family: [database] integers.
        protocol: "medium" or "hard".
        query_rows: [queries] int64, where the query itself stands in the database: always junk. None: it is not in there.

    Raises:
        ValueError: the axes disagree, or the protocol is unknown.

    Source: after the Medium and Hard protocols of Radenovic et al. 2018, "Revisiting Oxford and Paris", sec. 2.3, as used by
    Caron et al. 2021, table 3. There hard means a hard view of the building; here it is another background.
    """
    bind_axes(
        "retrieval_labels",
        query_labels=(query_labels, "queries"),
        query_family=(query_family, "queries"),
        database_labels=(database_labels, "database"),
        database_family=(database_family, "database"),
        **({} if query_rows is None else {"query_rows": (query_rows, "queries")}),
    )
    if protocol not in get_args(Protocol):
        raise wrong("retrieval_labels", given=f"protocol={protocol!r}", expected="'medium' or 'hard'", mend="pass one of these")
    positive = query_labels[:, None] == database_labels
    junk = torch.zeros_like(positive)
    if protocol == "hard":
        junk = positive & (query_family[:, None] == database_family)
    if query_rows is not None:
        junk = junk | (torch.arange(len(database_labels), device=junk.device) == query_rows[:, None])
    positive = positive & ~junk
    return RetrievalTruth(*(tuple(row.nonzero()[:, 0] for row in rows) for rows in (positive, junk)))
