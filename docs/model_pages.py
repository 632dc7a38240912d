"""Writes a page for each model, and the table of all models, when the documentation is built.

All of it comes from the classes: their docstrings, what they read, how they are trained. Where a
model stands is read from the tables of the page of results.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

from alignrec_pyg import models
from alignrec_pyg.models import ClosedFormRecommender, ModelInputs, Recommender
from alignrec_pyg.models.hparams import HyperParameters
from alignrec_pyg.models.inputs import PAPER_DATA_SETS
from alignrec_pyg.train_config import TrainConfig

NAMES = (*models.model_names(), "Aligned")
"""All models: those built from data alone, and what wraps another model."""

METRIC = "recall@20"

_TABLES = {
    "none": "links",
    "optional": "links, and the feature tables that there are (``features``)",
    "separate": "links and one or more feature tables (``features``)",
    "fused": "links and one feature table, into which several are concatenated (``features``)",
}
_GRAPHS = {
    "none": "",
    "one": ", and one item graph over all tables (``item_graph``)",
    "per_table": ", and an item graph of each table (``item_graphs``)",
}
_EDGES = {"cosine": "weighted by cosines", "binary": "all of equal weight"}


class Place(NamedTuple):
    """Where a model stands in a table of the page of results: the ``rank``-th of ``models``."""

    section: str
    row: str
    value: str
    rank: int
    models: int


def write_model_pages(folder: Path, results: str) -> list[str]:
    """Writes ``<model>.rst`` for each model and ``table.txt``; gives the models' names.

    Args:
        folder: Where to write. A file that has not changed is left alone.
        results: The page of results, in Markdown.
    """
    folder.mkdir(exist_ok=True)
    texts = {f"{name}.rst": model_page(name, list(places(name, results))) for name in NAMES}
    for name, text in {**texts, "table.txt": table_of_models()}.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    return list(NAMES)


def model_page(name: str, found: list[Place]) -> str:
    """The page of a model, as reStructuredText."""
    cls = _class(name)
    parts = [f"{name}\n{'=' * len(name)}", _summary(cls)]
    if name != "Aligned":
        parts += [_facts(cls), *_settings(cls)]
    parts += _standing(found)
    parts.append(".. rubric:: Equations and arguments")
    parts.append(f".. currentmodule:: alignrec_pyg.models\n\n.. autoclass:: {name}")
    return "\n\n".join(parts) + "\n"


def table_of_models() -> str:
    """All models with what they read and where they are from."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: models", ""]
    rows = [("model", "reads", "source")]
    for name in NAMES:
        cls = _class(name)
        reads = _reads(cls.inputs) if name != "Aligned" else "what the model that it wraps reads"
        rows.append((f":doc:`{name} </models/{name}>`", reads, _source(cls)))
    return "\n".join([*lines, *_list_rows(rows)]) + "\n"


def places(name: str, results: str) -> Iterator[Place]:
    """A model's rows in all tables of models by recall@20; "X, with Y" is a row of X."""
    for section in re.split(r"^## ", results, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        for table in re.findall(r"^\| model \|.*\n(?:\|.*\n)+", section, flags=re.MULTILINE):
            header, _, *rows = (_cells(line) for line in table.splitlines())
            if METRIC not in header:
                continue
            column = header.index(METRIC)
            values = {row[0]: row[column] for row in rows if row[0].split(",")[0] in NAMES}
            ranked = sorted(values, key=lambda row: -float(values[row].split()[0]))
            for row in ranked:
                if row.split(",")[0] == name:
                    yield Place(title, row, values[row], ranked.index(row) + 1, len(ranked))


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def _class(name: str) -> type[Recommender]:
    cls: type[Recommender] = getattr(models, name)
    return cls


def _summary(cls: type[Recommender]) -> str:
    """What the model's file says that it is, without the name."""
    first = (sys.modules[cls.__module__].__doc__ or "").partition("\n")[0]
    text = first.removeprefix(f"{cls.__name__}: ")
    return text[0].upper() + text[1:]


def _source(cls: type[Recommender]) -> str:
    """The first paragraph of the docstring: the paper, with a link."""
    return _paragraphs(cls)[0]


def _reads(inputs: ModelInputs) -> str:
    return _TABLES[inputs.tables] + _GRAPHS[inputs.item_graph]


def _facts(cls: type[Recommender]) -> str:
    inputs = cls.inputs
    lines = [("Source", _source(cls)), ("Reads", _reads(inputs))]
    if inputs.weighted:
        lines.append(
            ("Weights", "each table by its recall in the item-CF protocol (``table_weights``)")
        )
    if inputs.item_graph != "none":
        edges = _EDGES[inputs.weighting]
        graph = f'edges {edges} (``weighting="{inputs.weighting}"``)'
        if inputs.table_weights:
            shares = " and ".join(f"{w:g} {name}" for name, w in inputs.table_weights.items())
            graph += f"; of an image and a text table {shares}, otherwise all tables alike"
        lines.append(("Item graph", graph))
    lines.append(("New items", "by their features alone" if cls.supports_new_items else "no"))
    if not issubclass(cls, ClosedFormRecommender):
        sampling = "yes (``fan_out``)" if cls.supports_neighbor_sampling else "no"
        lines.append(("Sampled neighbours", sampling))
    return "\n".join(f":{name}: {text}" for name, text in lines)


def _settings(cls: type[Recommender]) -> list[str]:
    parts = [".. rubric:: Settings"]
    if issubclass(cls, ClosedFormRecommender):
        return [*parts, "Solved in closed form, in one epoch: only the arguments below matter."]
    published = cls.published_train_config()
    given = ", ".join(
        f"{field.name}={value!r}"
        for field in fields(TrainConfig)
        if (value := getattr(published, field.name)) != field.default
    )
    parts += [
        f"By default, ``{cls.__name__}.train_config(data)``: {_paragraphs(cls.train_config)[-1]}",
        f"As published, ``{cls.__name__}.published_train_config()`` (``--settings published``): "
        f"{_paragraphs(cls.published_train_config)[-1]}",
        f".. code-block:: python\n\n   TrainConfig({given})",
    ]
    hparams = {data: cls.published_hparams(data) for data in (*PAPER_DATA_SETS, "clothing")}
    if any(hparams.values()):
        said = _paragraphs(cls.published_hparams)[0]
        lines = [
            f"   {data}: {', '.join(f'{name}={value!r}' for name, value in found.items())}"
            for data, found in hparams.items()
            if found
        ]
        parts += [
            f"Arguments by data set, ``{cls.__name__}.published_hparams(data_name)``: {said}",
            "\n".join([".. code-block:: text", "", *lines]),
        ]
    return parts


def _paragraphs(documented: object) -> list[str]:
    paragraphs = (inspect.getdoc(documented) or "").split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs]


def _standing(found: list[Place]) -> list[str]:
    if not found:
        return []
    lines = [".. list-table::", "   :header-rows: 1", ""]
    rows = [("table", "row", f"``{METRIC}``", "place")]
    for place in found:
        link = f"`{place.section} <../results.html#{_anchor(place.section)}>`__"
        rows.append((link, place.row, place.value, f"{place.rank} of {place.models}"))
    return [".. rubric:: In our tables", "\n".join([*lines, *_list_rows(rows)])]


def _anchor(heading: str) -> str:
    """As MyST makes it, by GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _list_rows(rows: Iterable[Iterable[str]]) -> list[str]:
    return [
        f"   {' ' if column else '*'} - {cell}" for row in rows for column, cell in enumerate(row)
    ]


def _constructor(
    app: Sphinx, what: str, name: str, obj: object, options: object, *found: str | None
) -> tuple[str, None] | None:
    """The signature of a model's constructor; autodoc would print ``__new__(*args, **kwargs)``."""
    if not (isinstance(obj, type) and issubclass(obj, HyperParameters)):
        return None
    own = signature(obj.__init__, bound_method=True)
    shown = stringify_signature(own, show_return_annotation=False, unqualified_typehints=True)
    return shown, None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""

    def write(app: Sphinx) -> None:
        results = Path(app.srcdir).parent / "benchmarks" / "README.md"
        write_model_pages(Path(app.srcdir) / "models", results.read_text("utf-8"))

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", write)
    app.connect("autodoc-process-signature", _constructor)
    return {"parallel_read_safe": True}
