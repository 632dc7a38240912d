r"""MovieLens with posters and plots as a folder in MMRec format, with a feature table per encoder.

    python benchmarks/movielens_tables.py --data ml-latest-small --out ml
    alignrec pretrain --items ml/catalogue.csv --text title overview \
        --images ml-latest-small/posters_112.zip --config tiny --out stage1
    python benchmarks/movielens_tables.py --data ml-latest-small --out ml \
        --minilm all-MiniLM-L6-v2 --stage1 stage1/encoder

Likes are ratings of 4 or more of movies with a plot and a poster, filtered to the 5-core (601
users, 1,937 movies and 41,083 likes of ml-latest-small); the text is title and plot. The folder
holds NAME.inter with times and without labels (the scripts split it), the original ids,
catalogue.csv (all movies with their texts, for stage 1) and the tables

    tfidf, patch_pca texts and posters by encoders that scikit-learn fits to them minilm
    (--minilm) the texts by a sentence transformer beit3                (--stage1) both by the
    encoder that stage 1 trained; beit3_text and beit3_image each from one modality alone (for
    features.py --replace) beit3_random, ...    the same three from random weights

Every other script reads the folder with --data. Encoded batches are kept in its folder cache: the
same command continues an interrupted run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import alignrec_pyg
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import problems_of_folder
from alignrec_pyg.cli.options import DATA, OUTPUT, option

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import HeteroData

FIELDS = ("title", "overview")
MIN_RATING = 4
CORE = 5
WIDTH, IMAGE_SIZE = 64, 64  # of scikit-learn's encoders; the others have their own


def encoders(
    minilm: Path | None, stage1: Path | None
) -> Iterator[tuple[str, alignrec_pyg.encoders.ItemEncoder]]:
    """Names of tables and their encoders."""
    yield "tfidf", alignrec_pyg.encoders.TfidfEncoder(WIDTH)
    yield "patch_pca", alignrec_pyg.encoders.PatchPCAEncoder(WIDTH, image_size=IMAGE_SIZE)
    if minilm is not None:
        yield "minilm", alignrec_pyg.encoders.SentenceTransformerEncoder(minilm)
    if stage1 is None:
        return
    trained = alignrec_pyg.encoders.BEiT3Encoder.from_pretrained(stage1)
    for name, model in (("beit3", trained.model), ("beit3_random", trained.model.config)):
        for ending, modalities in (
            ("", ("image", "text")),
            ("_text", ("text",)),
            ("_image", ("image",)),
        ):
            yield (
                name + ending,
                alignrec_pyg.encoders.BEiT3Encoder(
                    model,
                    trained.tokenizer,
                    modalities=modalities,
                    max_tokens=trained.max_tokens,
                ),
            )


def write_interactions(data: HeteroData, out: Path) -> None:
    """``<name>.inter`` and the two files of ids."""
    import pandas as pd

    edges = data["user", "interacts", "item"]
    user, item = edges.edge_index.numpy()
    columns = {"userID": user, "itemID": item, "rating": edges.rating, "timestamp": edges.time}
    pd.DataFrame(columns).to_csv(out / f"{out.name}.inter", sep="\t", index=False)
    for kind, file, column in (("user", "u", "userID"), ("item", "i", "itemID")):
        ids = data[kind].id
        pd.DataFrame({"id": ids, column: range(len(ids))}).to_csv(
            out / f"{file}_id_mapping.csv", sep="\t", index=False
        )


def read_catalogue(data: Path) -> pd.DataFrame:
    """Number, title and overview of all movies, rated or not."""
    import pandas as pd

    movies = pd.read_csv(data / "movies.csv", usecols=["movieId", "title"])
    plots = pd.read_csv(data / "overviews.csv", usecols=["movieId", "overview"])
    table = movies.merge(plots, on="movieId", how="left", validate="one_to_one")
    return table.rename(columns={"movieId": "id"})


def read_likes(data: Path, catalogue: pd.DataFrame) -> HeteroData:
    """The 5-core of likes, with posters and the texts of the catalogue."""
    dataset = alignrec_pyg.datasets.MovieLens(
        data, min_rating=MIN_RATING, text=["overview"], require=["text", "image"]
    )
    likes = alignrec_pyg.transforms.KCore(CORE)(dataset.data)
    print(dataset.report, alignrec_pyg.report.describe(likes), sep="\n")
    movies = catalogue.set_index("id").loc[likes["item"].id]
    likes["item"].text = [
        alignrec_pyg.encoders.item_text(dict(zip(FIELDS, row, strict=True)), FIELDS)
        for row in movies[list(FIELDS)].to_numpy()
    ]
    return likes


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of this script."""

    data: Annotated[Path, option(DATA, "Folder with ratings.csv.", "FOLDER")]
    out: Annotated[Path, option(OUTPUT, "Folder to write.", "DIR")]
    minilm: Annotated[
        Path | None, option(DATA, "Sentence transformer: a folder or a name of the hub.", "FOLDER")
    ] = None
    stage1: Annotated[Path | None, option(DATA, "Encoder that stage 1 saved.", "FOLDER")] = None


def write_folder(options: Options) -> None:
    """Writes the folder."""
    from alignrec_pyg.storage import write_array

    out = options.out.resolve()
    if problems := problems_of_folder(out):
        raise alignrec_pyg.experiments.SettingsError(problems)
    catalogue = read_catalogue(options.data)
    data = read_likes(options.data, catalogue)
    catalogue.to_csv(out / "catalogue.csv", index=False)
    write_interactions(data, out)
    for name, encoder in encoders(options.minilm, options.stage1):
        encode = alignrec_pyg.transforms.EncodeItems(encoder, name, cache_dir=out / "cache")
        table = alignrec_pyg.graph.feature_table(encode(data), name)
        write_array(out / f"{name}.npy", table.numpy())
        print(encode.report)
    print(f"written: {out}")


main = script(Options, write_folder, __doc__)

if __name__ == "__main__":
    sys.exit(main())
