"""docs/adapters.md is written from the promises of adapted.py and the tests that hold the models to them.

`python -m tests.backbones.test_adapt_page` writes it anew.
"""

from pathlib import Path

from tests.backbones import test_adapt_promises as promises
from tests.backbones import test_adapt_table as table
from tests.backbones import test_adapt_timm, test_adapt_torchvision, test_adapt_transformers
from tests.backbones.adapted import CASES

from sslkit.backbones import adapters

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docs" / "adapters.md"


def named(*tests):
    return ", ".join(f"`{test.__name__}`" for test in tests)


OVERLAP = (
    "patches overlap: visible tokens see a border of hidden ones "
    f"({named(table.test_overlapping_patches_show_hidden_pixels_to_their_neighbours)})"
)
STEM = (
    "masks lie on the grid after the stem or any whole fraction of it, such as `base` "
    f"({named(test_adapt_timm.test_masks_of_mvit_lie_on_any_whole_fraction_of_the_stem)}, in the files of timm and torchvision); {OVERLAP}"
)
ALONE = f"and takes these alone ({named(test_adapt_transformers.test_a_model_of_oblong_images_takes_those_alone)})"
SQUARE = f"the library builds it for square images alone ({named(table.test_libraries_that_build_for_square_images_alone)}); others: "
PADDED = "the target of whole patches is that of padded images"
TAKES = {"any": ("yes", "any size, padded by the model"), "multiples": ("yes", "multiples of the patch; others: "), "built": ("error", "")}


def raised(words):
    return f'"{words}"'


def keep(case):
    return ("error", raised(table.KEEP)) if not case.keeps else ("yes", "" if case.apart else OVERLAP)


def replace(case):
    return "yes", "" if case.apart else OVERLAP if case.keeps else STEM


def layers(case):
    return "yes", "" if case.keeps else "each with the grid and the size of its block"


def attention_of(case):
    return ("yes", "") if case.attends else ("error", raised(table.ATTENTION))


def other_sizes(case):
    if case.takes == "set":
        return "after `set_input_size`", f"before it: {raised(case.refuses)}"
    word, note = TAKES[case.takes]
    return word, note + (raised(case.refuses) if case.refuses else "")


def non_square(case):
    if case.oblong_refuses:
        return "error", (SQUARE if not case.oblong else "") + raised(case.oblong_refuses)
    return f"`{case.oblong}`", ALONE if case.kind.startswith(("transformers ViT", "transformers DeiT")) else ""


def channels(case):
    return f"`{case.channels}`", "the constructor has three: put another convolution there" if case.channels == "conv_proj" else ""


def mae_step(case):
    return keep(case) if case.takes != "any" or not case.keeps else ("yes", PADDED)


# Heading, cell of a model, the test that proves the cells of this column.
COLUMNS = [
    ("`keep`", keep, table.test_keep),
    ("`replace`", replace, promises.test_replace_is_a_hook_on_the_patch_embedding),
    ("`layers`", layers, table.test_layers),
    ("`attention_of`", attention_of, table.test_attention_of),
    ("other sizes, square or not", other_sizes, table.test_other_sizes),
    ("built non-square", non_square, table.test_built_for_non_square_images),
    ("N channels", channels, table.test_channels),
    ("MAE step", mae_step, table.test_mae_step),
]


def page():
    """docs/adapters.md."""
    lines = [
        "# Adapters",
        "",
        "What [`adapt`](reference/backbones.md) does with the models of timm, torchvision and transformers. Made by",
        "`python -m tests.backbones.test_adapt_page` from the promises of the tiny models in `tests/backbones/adapted.py`. The tests",
        "below, which `make test` runs, hold every model to the same promises.",
        "",
        "**yes**: it works. **error**: it raises, in the words of the note. An option or a method: it works when the model is built",
        "with the option, or after the method is called. Options of two rows in one model are proven by neither.",
        "",
        "| model | class | built with | " + " | ".join(heading for heading, _, _ in COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    notes = []
    for name, case in CASES.items():
        row = [name, case.kind, f"`{case.options}`" if case.options else ""]
        for _, cell, _ in COLUMNS:
            word, note = cell(case)
            if note and note not in notes:
                notes.append(note)
            row.append(f"{word} [{notes.index(note) + 1}]" if note else word)
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *[f"{i}. {note[0].upper() + note[1:] if note[0] != '`' else note}." for i, note in enumerate(notes, 1)], ""]
    lines += [
        "## The tests",
        "",
        "A cell is proven by the test of its column with the row's model as parameter, as in",
        f"`pytest 'tests/backbones/test_adapt_table.py::test_keep[{next(iter(CASES))}]'`.",
        "",
        "| column | test | what it compares |",
        "|---|---|---|",
    ]
    for heading, _, test in COLUMNS:
        file = test.__module__.rsplit(".", 1)[1]
        lines.append(f"| {heading} | `{file}.py::{test.__name__}` | {' '.join(test.__doc__.split())} |")
    return "\n".join([*lines, ""])


def test_the_page_is_current():
    assert FILE.read_text() == page(), "run `python -m tests.backbones.test_adapt_page`"


def test_every_cell_has_its_test():
    for _, _, test in COLUMNS:
        names = [mark.args[1] for mark in test.pytestmark if mark.name == "parametrize" and mark.args[0] == "name"]
        assert [list(n) for n in names] == [list(CASES)], test.__name__
    assert hasattr(test_adapt_torchvision, test_adapt_timm.test_masks_of_mvit_lie_on_any_whole_fraction_of_the_stem.__name__)


def test_every_class_has_a_row():
    known = {f"{name.split('.')[0]} {name.rsplit('.', 1)[1]}" for name in adapters._KNOWN}
    assert sorted(known - {case.kind for case in CASES.values()}) == []


if __name__ == "__main__":
    FILE.write_text(page())
