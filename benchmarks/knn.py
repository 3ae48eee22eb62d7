"""Weighted k-NN evaluation: ours against the form of DINO's protocol and against chunks with topk and one-hot votes.

Both peers are written here from their descriptions; all three get unit rows, and give the two best classes of every query.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks.harness import Call, Report, command, compare
from sslkit.evaluation import knn_classify

BANK, QUERIES, DIM, CLASSES, TEMPERATURE = 50_000, 2_000, 384, 1000, 0.07


def data(bank: int = BANK, queries: int = QUERIES) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (bank + queries,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=generator)
    rows = normalize(centres[labels] + 2 * torch.randn(bank + queries, DIM, generator=generator), dim=1)
    return rows[:bank], labels[:bank], rows[bank:]


def ours(train: Tensor, labels: Tensor, test: Tensor, k: int) -> Tensor:
    return knn_classify(train, labels, test, k=k, temperature=TEMPERATURE, num_classes=CLASSES).predictions[:, :2]


def chunked_one_hot(train: Tensor, labels: Tensor, test: Tensor, k: int, chunk: int = 128) -> Tensor:
    """Rows of 128 queries; weights times one-hot labels [chunk, k, classes], summed over the neighbours; all classes sorted."""
    found = []
    for part in torch.split(test, chunk):
        similarity, ids = (part @ train.T).topk(k, dim=1)
        weights = (similarity / TEMPERATURE).exp()
        hot = one_hot(labels[ids].flatten(), CLASSES).to(weights.dtype).view(len(part), k, CLASSES)
        found.append((hot * weights[:, :, None]).sum(dim=1).argsort(dim=1, descending=True)[:, :2])
    return torch.cat(found)


def hundred_chunks(train: Tensor, labels: Tensor, test: Tensor, k: int) -> Tensor:
    """DINO's protocol: the test set in 100 parts, a one-hot buffer that is filled anew for each, all classes sorted."""
    found = []
    buffer = torch.zeros(k * (len(test) // 100), CLASSES)
    for part in torch.split(test, len(test) // 100):
        similarity, ids = (part @ train.T).topk(k, dim=1, largest=True, sorted=True)
        near = labels.view(1, -1).expand(len(part), -1).gather(1, ids)
        buffer.resize_(len(part) * k, CLASSES).zero_()
        buffer.scatter_(1, near.reshape(-1, 1), 1)
        weights = (similarity / TEMPERATURE).exp()
        votes = (buffer.view(len(part), -1, CLASSES) * weights[:, :, None]).sum(dim=1)
        found.append(votes.sort(dim=1, descending=True).indices[:, :2])
    return torch.cat(found)


FORMS = {"sslkit": ours, "100 chunks, one-hot (DINO)": hundred_chunks, "chunks of 128, topk, one-hot (lightly)": chunked_one_hot}


def setup(form: str, k: int) -> Call:
    """For the memory measurement: inputs made, the call ready."""
    return partial(FORMS[form], *data(), k)


def agree(mine: Tensor, reference: Tensor) -> None:
    """Votes of two classes may lie within rounding of each other: one query in a thousand may differ."""
    same = (mine[:, 0] == reference[:, 0]).double().mean().item()
    if same < 0.999:
        raise AssertionError(f"{100 * same:.2f} % of the queries have the same first class")


def run(k: int = 20, rounds: int = 5, memory: bool = True) -> Report:
    inputs = data()
    jobs = {name: partial(form, *inputs, k) for name, form in FORMS.items()}
    peaks = {name: partial(setup, name, k) for name in FORMS} if memory else None
    return compare(f"knn_k{k}", jobs, rounds=rounds, reference="chunks of 128, topk, one-hot (lightly)", agree=agree, peaks=peaks,
                   title=f"k-NN evaluation, bank {BANK} x {DIM}, {QUERIES} queries, {CLASSES} classes, k = {k}")  # fmt: skip


main = command(__doc__, run, (20, 200), rounds=5)

if __name__ == "__main__":
    main()
