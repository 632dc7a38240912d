"""The data, the encoders and the trained model of the demo command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.datasets import MovieLens, Synthetic
from alignrec_pyg.encoders import ItemEncoder, PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.experiments.prepare import GraphTransform, prepare_graph
from alignrec_pyg.graph import ITEM
from alignrec_pyg.models import AlignRec, Recommender
from alignrec_pyg.report import describe
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import fit
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KCore

LIKE = 4
"""Lowest rating that is considered positive."""

_CORE = 5
_TITLE_WORDS = 2


@dataclass(frozen=True)
class DemoModel:
    """The arguments of :func:`~alignrec_pyg.demo.page`."""

    model: Recommender
    data: HeteroData
    val: HeteroData
    titles: Sequence[str]
    encode: Sequence[BaseTransform]
    item_graphs: Sequence[GraphTransform]


def load_or_train(
    folder: Path | None,
    run: Path,
    *,
    config: TrainConfig | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> DemoModel:
    """Loads AlignRec for a MovieLens folder or for synthetic data, or trains it the first time.

    Of MovieLens, ratings of at least 4 are used, filtered to the 5-core; the text of a movie is its
    title, genres and plot. Features are TF-IDF vectors of the texts and principal components of the
    images, if present, which are fitted at every start (within seconds; deterministic on one
    machine). The model is trained and saved in ``run`` if that folder has none; interrupted
    training is resumed.
    """
    log(f"reading {'synthetic data' if folder is None else folder}")
    data, titles = _synthetic() if folder is None else _movielens(folder)
    log(str(describe(data)))
    encoders: dict[str, ItemEncoder] = {}
    if any(text is not None for text in data[ITEM].text):
        encoders["text"] = TfidfEncoder(64)
    if any(image is not None for image in data[ITEM].image):
        encoders["image"] = PatchPCAEncoder(64, image_size=None if folder is None else 64)
    for name, encoder in encoders.items():
        log(f"encoding {name}s")
        data = EncodeItems(encoder, name)(data)
    prepared = prepare_graph(data, describe(data), name="demo")
    inputs = prepared.inputs(AlignRec)
    train = prepared.train
    if (run / "config.json").exists():
        log(f"loading the model of {run}")
        model = AlignRec.from_pretrained(run, train)
    else:
        log(f"training AlignRec, which is saved in {run}")
        torch.manual_seed(0)  # for the initial weights
        model = AlignRec(train, **inputs)
        fit(
            model,
            train,
            prepared.val,
            config or TrainConfig(lr=3e-3, max_epochs=60, patience=8),
            report=lambda epoch, entry: log(
                f"epoch {epoch}: validation recall@20 {entry['recall@20']:.4f} "
                f"(best {entry['best_recall@20']:.4f})"
            ),
            checkpoint_dir=run / "training",
        )
        model.save_pretrained(run)
    encode: list[BaseTransform] = [
        EncodeItems(encoder, name, fit=False) for name, encoder in encoders.items()
    ]
    (fused,) = inputs["features"]
    if fused not in encoders:
        encode.append(ConcatFeatures(prepared.features, fused))
    graphs = list(prepared.graph_transforms.values())
    return DemoModel(model, prepared.test, prepared.val, titles, encode, graphs)


def _synthetic() -> tuple[HeteroData, list[str]]:
    data = Synthetic(seed=0).data
    words = [" ".join(text.split()[:_TITLE_WORDS]) for text in data[ITEM].text]
    return data, [f"{first} ({number})" for number, first in enumerate(words)]


def _movielens(folder: Path) -> tuple[HeteroData, list[str]]:
    dataset = MovieLens(folder, min_rating=LIKE, text=["title", "genres", "overview"])
    data = KCore(_CORE)(dataset.data)
    names = pd.read_csv(folder / "movies.csv").set_index("movieId")["title"]
    titles = [str(names.get(movie, movie)) for movie in data[ITEM].id.tolist()]
    return data, titles
