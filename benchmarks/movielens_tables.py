r"""MovieLens with posters and plots as a folder in MMRec format, with a feature table per encoder.

    python benchmarks/movielens_tables.py --data ml-latest-small --out ml
    alignrec pretrain --items ml/catalogue.csv --text title overview \
        --images ml-latest-small/posters_112.zip --config tiny --out stage1
    python benchmarks/movielens_tables.py --data ml-latest-small --out ml \
        --minilm all-MiniLM-L6-v2 --stage1 stage1/encoder

Likes are ratings of 4 or more of movies with a plot and a poster, thinned to the 5-core (601 users,
1,937 movies and 41,083 likes of ``ml-latest-small``); the text is title and plot. The folder holds
``<name>.inter`` with times and without labels (the scripts split it), the ids of the outside world,
``catalogue.csv`` (all movies with their texts, for stage 1) and the tables

- ``tfidf``, ``patch_pca``: what scikit-learn learns of texts and of posters;
- ``minilm`` (``--minilm``): the texts by a sentence transformer, a folder or a name of the hub;
- ``beit3`` (``--stage1``): both by the encoder that stage 1 trained, ``beit3_text`` and
  ``beit3_image`` each from one modality alone (for ``features.py --replace``), and
  ``beit3_random``, ``beit3_random_text``, ``beit3_random_image``: the same from random weights.

Every other script reads the folder with ``--data``. Encoded batches are kept in ``cache`` in it:
the same command continues an interrupted run.
"""

# ruff: noqa: E402 (the path comes before the imports)
from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import problems_of_folder
from alignrec_pyg.datasets import MovieLens
from alignrec_pyg.encoders import (
    BEiT3Encoder,
    ItemEncoder,
    PatchPCAEncoder,
    SentenceTransformerEncoder,
    TfidfEncoder,
    item_text,
)
from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_table
from alignrec_pyg.report import describe
from alignrec_pyg.storage import CheckpointError
from alignrec_pyg.transforms import EncodeItems, KCore

FIELDS = ("title", "overview")
MIN_RATING = 4
CORE = 5
WIDTH, IMAGE_SIZE = 64, 64  # of scikit-learn's encoders; the others have their own


def encoders(minilm: Path | None, stage1: Path | None) -> Iterator[tuple[str, ItemEncoder]]:
    """Names of tables and what encodes them."""
    yield "tfidf", TfidfEncoder(WIDTH)
    yield "patch_pca", PatchPCAEncoder(WIDTH, image_size=IMAGE_SIZE)
    if minilm is not None:
        yield "minilm", SentenceTransformerEncoder(minilm)
    if stage1 is None:
        return
    trained = BEiT3Encoder.from_pretrained(stage1)
    for name, model in (("beit3", trained.model), ("beit3_random", trained.model.config)):
        for ending, modalities in (
            ("", ("image", "text")),
            ("_text", ("text",)),
            ("_image", ("image",)),
        ):
            yield (
                name + ending,
                BEiT3Encoder(
                    model,
                    trained.tokenizer,
                    modalities=modalities,
                    max_tokens=trained.max_tokens,
                ),
            )


def write_interactions(data: HeteroData, out: Path) -> None:
    """``<name>.inter`` and the two files of ids."""
    edges = data[INTERACTS]
    user, item = edges.edge_index.numpy()
    columns = {"userID": user, "itemID": item, "rating": edges.rating, "timestamp": edges.time}
    pd.DataFrame(columns).to_csv(out / f"{out.name}.inter", sep="\t", index=False)
    for kind, file, column in ((USER, "u", "userID"), (ITEM, "i", "itemID")):
        ids = data[kind].id
        pd.DataFrame({"id": ids, column: range(len(ids))}).to_csv(
            out / f"{file}_id_mapping.csv", sep="\t", index=False
        )


def read_catalogue(data: Path) -> pd.DataFrame:
    """Number, title and overview of all movies, rated or not."""
    movies = pd.read_csv(data / "movies.csv", usecols=["movieId", "title"])
    plots = pd.read_csv(data / "overviews.csv", usecols=["movieId", "overview"])
    table = movies.merge(plots, on="movieId", how="left", validate="one_to_one")
    return table.rename(columns={"movieId": "id"})


def read_likes(data: Path, catalogue: pd.DataFrame) -> HeteroData:
    """The 5-core of likes, with posters and the texts of the catalogue."""
    dataset = MovieLens(data, min_rating=MIN_RATING, text=["overview"], require=["text", "image"])
    likes = KCore(CORE)(dataset.data)
    print(dataset.report, describe(likes), sep="\n")
    movies = catalogue.set_index("id").loc[likes[ITEM].id]
    likes[ITEM].text = [
        item_text(dict(zip(FIELDS, row, strict=True)), FIELDS)
        for row in movies[list(FIELDS)].to_numpy()
    ]
    return likes


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder.

    Returns:
        0, or 2 if the data, an encoder or ``--out`` does not fit.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="with ratings.csv")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--minilm", type=Path, metavar="FOLDER", help="sentence transformer")
    add("--stage1", type=Path, metavar="FOLDER", help="encoder that stage 1 saved")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    try:
        problems = problems_of_folder(out)
        if problems:
            raise ValueError(problems[0])
        catalogue = read_catalogue(options.data)
        data = read_likes(options.data, catalogue)
        catalogue.to_csv(out / "catalogue.csv", index=False)
        write_interactions(data, out)
        for name, encoder in encoders(options.minilm, options.stage1):
            encode = EncodeItems(encoder, name, cache_dir=out / "cache")
            np.save(out / f"{name}.npy", feature_table(encode(data), name).numpy())
            print(encode.report)
    except (OSError, ValueError, CheckpointError) as error:
        print(f"movielens_tables.py: {error}", file=sys.stderr)
        return 2
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
