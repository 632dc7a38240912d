"""Figure 4 of the paper: content and ID vectors of the same items, before and after alignment.

    python benchmarks/alignment_map.py
    python benchmarks/alignment_map.py --data FOLDER

Before: VBPR, whose content vectors are its projected features and whose ID vectors are its item
table. After: AlignRec. Each is trained as in compare.py (the first seed); the table holds the
cosine of an item's two vectors, over all items, and the picture a t-SNE (scikit-learn) of at most
2,000 items, drawn with seed 0. The paper says 0.5035 and 0.8631 (Sports).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import Seeds, log

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SAMPLE = 2000


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("VBPR", "AlignRec")

    seeds: Seeds = 1


def draw_map(options: Options) -> int:
    """Runs the experiment."""
    if options.seeds != 1:
        raise experiments.SettingsError(["--seeds: a picture shows one run"])
    session = options.session()
    models = session.alignable(session.models)
    cells = {name: session.cells(name, settings)[0] for name, settings in models.items()}
    session.check(list(cells.values()))
    print(experiments.header(session.data, session.out), flush=True)
    parts = session.data.parts.to(session.device)
    vectors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, cell in cells.items():
        key = experiments.cell_key(cell, parts, session.device)
        try:
            vectors[name] = item_vectors(cell, parts, session.out / "models" / f"{name}-{key[:16]}")
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            if not experiments.is_the_cells_own(error):
                raise
            log(f"{name}: failed: {error}")
    if not vectors:
        return 1
    written = write(session, models, vectors)
    print("written: " + ", ".join(str(path) for path in written))
    if (problem := experiments.chart_problem()) is not None:
        print(problem)
    return 0 if len(vectors) == len(cells) else 1


def item_vectors(
    cell: experiments.Cell, parts: experiments.Parts, folder: Path
) -> tuple[Tensor, Tensor]:
    """Content and ID vectors of the items, after training."""
    import torch

    model, fitted = experiments.train_cell(cell, parts, folder)
    log(f"{cell.row}: best epoch {fitted.best_epoch} of {fitted.num_epochs}")
    assert isinstance(model, alignrec_pyg.models.ContentRecommender)  # as Session.alignable checks
    with torch.no_grad():
        x = model.representations(parts.train)
    return x.content_item.cpu(), x.id_item.detach().cpu()


def cosine_summary(content: Tensor, ids: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quartiles of the cosine of paired rows."""
    import torch

    cosine = torch.nn.functional.cosine_similarity(content.double(), ids.double())
    quartiles = cosine.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    named = dict(zip(("quartile 1", "median", "quartile 3"), quartiles, strict=True))
    return {"mean": float(cosine.mean()), "std": float(cosine.std()), **named}


def joint_map(content: Tensor, ids: Tensor, sample: int = _SAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """A common t-SNE of at most ``sample`` items' content and ID vectors, each ``[s, 2]``."""
    import torch

    chosen = torch.randperm(content.size(0), generator=torch.Generator().manual_seed(0))[:sample]
    both = torch.cat([content[chosen], ids[chosen]]).numpy()
    points = experiments.charts.project(both)
    return points[: len(chosen)], points[len(chosen) :]


def write(
    session: experiments.Session,
    models: Mapping[str, experiments.ModelSettings],
    vectors: Mapping[str, tuple[Tensor, Tensor]],
) -> list[Path]:
    """Prints the table; writes it and, with matplotlib, the picture."""
    from alignrec_pyg import text_tables

    cosines = {name: cosine_summary(*pair) for name, pair in vectors.items()}
    header = ["model", *next(iter(cosines.values()))]
    unrounded = {name: list(found.values()) for name, found in cosines.items()}
    rows = [[name, *(f"{value:.4f}" for value in found)] for name, found in unrounded.items()]
    here = experiments.origin(session.device)
    source = f"commit: {here.commit}; {here.hardware}"
    print(f"\n{text_tables.aligned_table([header, *rows], rule=True)}\n\n{source}")
    parts = [
        f"# Cosine of an item's content and ID vectors ({session.data.name})",
        text_tables.markdown_table([header, *rows]),
        "The paper's figures, Sports with its own features: VBPR 0.5035, AlignRec 0.8631.",
        source,
        f"```text\n{experiments.description(session.data, models)}\n```",
    ]
    texts = {
        ".md": "\n\n".join(parts) + "\n",
        ".csv": text_tables.csv_table(
            [header, *([name, *found] for name, found in unrounded.items())]
        ),
    }

    facts = {"cosine": cosines, "source": source}

    def draw(path: Path) -> None:
        maps = {
            f"{name}: mean cosine {cosines[name]['mean']:.4f}": joint_map(*pair)
            for name, pair in vectors.items()
        }
        title = f"content and ID vectors of items ({session.data.name})"
        experiments.charts.write_maps(path, title, maps)

    return experiments.write_files(session.out, "alignment_map", facts, texts, draw)


main = script(Options, draw_map, __doc__)

if __name__ == "__main__":
    sys.exit(main())
