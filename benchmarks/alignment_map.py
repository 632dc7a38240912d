"""Figure 4 of the paper: content and ID vectors of the same items, before and after alignment.

    python benchmarks/alignment_map.py
    python benchmarks/alignment_map.py --data FOLDER

Before: VBPR, whose content vectors are its projected features and whose ID vectors are its item
table. After: AlignRec. Each is trained as in ``compare.py`` (the first seed); the table holds the
cosine of an item's two vectors, over all items, and the picture a t-SNE (scikit-learn) of at most
2,000 items, drawn with seed 0. The paper says 0.5035 and 0.8631 (Sports).
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.cells import cell_key, train_cell
from alignrec_pyg.experiments.charts import chart_problem, write_maps
from alignrec_pyg.experiments.description import description, header
from alignrec_pyg.experiments.provenance import origin
from alignrec_pyg.experiments.runner import is_the_cells_own
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.models import ContentRecommender

MODELS = ("VBPR", "AlignRec")
_SAMPLE = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS, seeds=1)
    return command.main("alignment_map.py", parser, _map, arguments)


def _map(session: Session) -> int:
    if session.options.seeds != 1:
        raise SettingsError(["--seeds: a picture shows one run"])
    models = session.wearers(session.models)
    cells = {name: session.cells(name, settings)[0] for name, settings in models.items()}
    session.check(list(cells.values()))
    print(header(session.data, session.out), flush=True)
    about = description(session.data, models)
    parts = session.data.parts.to(session.device)
    cosines, maps = {}, {}
    for name, cell in cells.items():
        folder = session.out / "models" / f"{name}-{cell_key(cell, parts, session.device)[:16]}"
        try:
            model, fitted = train_cell(cell, parts, folder)
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            if not is_the_cells_own(error):
                raise
            log(f"{name}: failed: {error}")
            continue
        log(f"{name}: best epoch {fitted.best_epoch} of {fitted.num_epochs}")
        assert isinstance(model, ContentRecommender)
        with torch.no_grad():
            x = model.representations(parts.train)
        content, ids = x.content_item.cpu(), x.id_item.detach().cpu()
        cosines[name] = cosine_summary(content, ids)
        maps[name] = content, ids
    if not maps:
        return 1
    _write(session, cosines, about)
    problem = chart_problem()
    if problem is None:
        pictures = {
            f"{name}: mean cosine {cosines[name]['mean']:.4f}": joint_map(*pair)
            for name, pair in maps.items()
        }
        path = session.out / "alignment_map.png"
        write_maps(path, f"content and ID vectors of items ({session.data.name})", pictures)
        print(f"written: {path}")
    else:
        print(problem)
    return 0 if len(maps) == len(cells) else 1


def cosine_summary(content: Tensor, ids: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quartiles of the cosine of paired rows."""
    cosine = cosine_similarity(content.double(), ids.double())
    low, middle, high = cosine.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return {
        "mean": float(cosine.mean()),
        "std": float(cosine.std()),
        "quartile 1": float(low),
        "median": float(middle),
        "quartile 3": float(high),
    }


def joint_map(content: Tensor, ids: Tensor, sample: int = _SAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """A common t-SNE of at most ``sample`` items' content and ID vectors, each ``[s, 2]``."""
    from sklearn.manifold import TSNE

    chosen = torch.randperm(content.size(0), generator=torch.Generator().manual_seed(0))[:sample]
    both = torch.cat([content[chosen], ids[chosen]]).numpy()
    perplexity = min(30.0, (both.shape[0] - 1) / 3)
    points = TSNE(random_state=0, init="pca", perplexity=perplexity).fit_transform(both)
    return points[: len(chosen)], points[len(chosen) :]


def _write(session: Session, cosines: Mapping[str, Mapping[str, float]], about: str) -> None:
    columns = list(next(iter(cosines.values())))
    lines = [
        f"| model | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(
            f"| {name} | {' | '.join(f'{values[c]:.4f}' for c in columns)} |"
            for name, values in cosines.items()
        ),
    ]
    here = origin(session.device)
    source = f"commit: {here.commit}; {here.hardware}"
    print("\n" + "\n".join(lines) + f"\n\n{source}")
    title = f"# Cosine of an item's content and ID vectors ({session.data.name})"
    paper = "The paper's figures, Sports with its own features: VBPR 0.5035, AlignRec 0.8631."
    text = "\n\n".join([title, "\n".join(lines), paper, source, f"```text\n{about}\n```"])
    (session.out / "alignment_map.md").write_text(text + "\n", encoding="utf-8")
    summary: dict[str, Any] = {"cosine": cosines, "source": source}
    (session.out / "alignment_map.json").write_text(json.dumps(summary, indent=2) + "\n")
    rows = [",".join(["model", *columns])]
    rows += [
        ",".join([name, *(str(values[c]) for c in columns)]) for name, values in cosines.items()
    ]
    (session.out / "alignment_map.csv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
