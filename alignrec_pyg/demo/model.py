"""The data, the encoders and the trained model of the demo command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from colorsys import rgb_to_hsv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.datasets import MovieLens, Synthetic
from alignrec_pyg.encoders import ItemEncoder, PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.experiments.prepare import prepare_graph
from alignrec_pyg.experiments.prepared_data import GraphTransform
from alignrec_pyg.graph import INTERACTS, ITEM, USER
from alignrec_pyg.models import AlignRec, Recommender
from alignrec_pyg.report import describe
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import fit
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KCore

LIKE = 4
"""Lowest rating that is considered positive."""

_CORE = 5
_SYNTHETIC_SIZE, _POSTER_SIZE = 32, 64  # pixels along a side, of what encoders get
_HUES = (  # every 30 degrees
    *("red", "orange", "yellow", "lime", "green", "emerald"),
    *("turquoise", "azure", "blue", "violet", "magenta", "pink"),
)
_GREYISH = 0.2  # saturation
_STEEP = 2.4  # frequency in one direction as a multiple of that in the other: 22.5 degrees


@dataclass(frozen=True)
class DemoModel:
    """The arguments of :func:`~alignrec_pyg.demo.page`."""

    model: Recommender
    data: HeteroData
    val: HeteroData
    titles: Sequence[str]
    user_names: Sequence[str] | None
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
    image_size = _SYNTHETIC_SIZE if folder is None else _POSTER_SIZE
    log(str(describe(data)))
    encoders: dict[str, ItemEncoder] = {}
    if any(text is not None for text in data[ITEM].text):
        encoders["text"] = TfidfEncoder(64)
    if any(image is not None for image in data[ITEM].image):
        encoders["image"] = PatchPCAEncoder(64, image_size=image_size)
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
            config or TrainConfig(max_epochs=60),
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
    names = None if folder is not None else _tastes(train)
    return DemoModel(model, prepared.test, prepared.val, titles, names, encode, graphs)


def _synthetic() -> tuple[HeteroData, list[str]]:
    data = Synthetic(image_size=_SYNTHETIC_SIZE, seed=0).data
    patterns = [f"{colors(image)}, {stripes(image)} stripes" for image in data[ITEM].image]
    return data, [f"{name.capitalize()} ({number})" for number, name in enumerate(patterns)]


def _tastes(train: HeteroData) -> list[str]:
    """Users by the colours of most of the items that they know."""
    names = [colors(image) for image in train[ITEM].image]
    counts: list[Counter[str]] = [Counter() for _ in range(int(train[USER].num_nodes))]
    for user, item in train[INTERACTS].edge_index.T.tolist():
        counts[user][names[item]] += 1
    return [
        f"user {user}" + (f" ({count.most_common(1)[0][0]})" if count else "")
        for user, count in enumerate(counts)
    ]


def colors(image: Tensor) -> str:
    """The two colours of a striped image, uint8 ``[3, H, W]``, in words."""
    pixels, along = image.flatten(1).T.double(), _along_colors(image).flatten()
    groups = [pixels[side].mean(dim=0) for side in (along > 0, along <= 0) if side.any()]
    return " and ".join(sorted({_hue_name(*(group / 255).tolist()) for group in groups}))


def stripes(image: Tensor) -> str:
    """How the stripes of an image run: upright, level or slanting."""
    spectrum = torch.fft.fft2(_along_colors(image)).abs()
    row, column = divmod(int(spectrum.argmax()), spectrum.size(1))
    down = abs(float(torch.fft.fftfreq(spectrum.size(0))[row]))
    across = abs(float(torch.fft.fftfreq(spectrum.size(1))[column]))
    if across > _STEEP * down:
        return "upright"
    return "level" if down > _STEEP * across else "slanting"


def _along_colors(image: Tensor) -> Tensor:
    """Where pixels are between the two colours of an image, which are on either side of 0."""
    pixels = image.flatten(1).T.double()
    centred = pixels - pixels.mean(dim=0)
    *_, axes = torch.linalg.svd(centred, full_matrices=False)
    return (centred @ axes[0]).view(image.shape[1:])


def _hue_name(red: float, green: float, blue: float) -> str:
    hue, saturation, _ = rgb_to_hsv(red, green, blue)
    if saturation < _GREYISH:
        return "grey"
    return _HUES[round(hue * len(_HUES)) % len(_HUES)]


def _movielens(folder: Path) -> tuple[HeteroData, list[str]]:
    dataset = MovieLens(folder, min_rating=LIKE, text=["title", "genres", "overview"])
    data = KCore(_CORE)(dataset.data)
    names = pd.read_csv(folder / "movies.csv").set_index("movieId")["title"]
    titles = [str(names.get(movie, movie)) for movie in data[ITEM].id.tolist()]
    return data, titles
