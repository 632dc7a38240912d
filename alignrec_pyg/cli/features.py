"""``alignrec features``: what feature tables are worth before any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import DataOptions
from alignrec_pyg.cli.options import (
    DATA,
    EXPERIMENT,
    OUTPUT,
    ImageColumn,
    ImageFiles,
    fraction,
    natural,
    option,
    positive_int,
)


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(DataOptions):
    """The options of the evaluation."""

    encoder: Annotated[
        tuple[str, ...],
        option(
            DATA,
            "Encoders that make tables here: tfidf, tfidf_char, patch_pca, NAME=FOLDER (of stage 1 "
            "or of a sentence transformer), NAME=hub:MODEL, NAME=clip:MODEL:WEIGHTS, "
            "NAME=timm:MODEL:WEIGHTS, NAME=torchvision:MODEL:WEIGHTS or NAME=module:Class.",
            "SPEC ...",
        ),
    ] = ()
    items: Annotated[
        Path | None, option(DATA, "A table of items to encode: .csv, .tsv or .parquet.", "FILE")
    ] = None
    items_id: Annotated[
        str | None,
        option(DATA, "The item column of --items, if its name is no usual one.", "COLUMN"),
    ] = None
    text: Annotated[
        tuple[str, ...],
        option(DATA, "Text columns of --items, joined in this order.", "COLUMN ..."),
    ] = ("title", "brand", "description")
    image: ImageColumn = None
    images: ImageFiles = None
    sets: Annotated[
        tuple[str, ...],
        option(EXPERIMENT, "Feature sets.", "NAME[+NAME] ...", show_default="each table, then all"),
    ] = ()
    replace: Annotated[
        tuple[str, ...],
        option(
            EXPERIMENT,
            "Rows that a set's encoder gives without the modality, e.g. mm:image=mm_of_text.",
            "SET:MODALITY=TABLE ...",
        ),
    ] = ()
    k: Annotated[
        tuple[int, ...], option(EXPERIMENT, "Cut-offs of recall.", "K ...", parser=positive_int)
    ] = (10, 20, 50)
    targets: Annotated[
        Literal["time", "val", "test"] | None,
        option(EXPERIMENT, "What zero-shot finds.", show_default="time, else val"),
    ] = None
    links: Annotated[Literal["all", "train"], option(EXPERIMENT, "What the protocols see.")] = "all"
    similarity: Annotated[Literal["cosine", "dot"], option(EXPERIMENT, "Of two rows.")] = "cosine"
    exclude_history: Annotated[
        bool, option(EXPERIMENT, "Rank items without the user's history.", name="--exclude-history")
    ] = False
    ties: Annotated[
        Literal["last", "random", "min_id", "max_id"],
        option(EXPERIMENT, "Which of several links of equal time is the latest."),
    ] = "last"
    feature_scale: Annotated[
        Literal["rows", "raw"],
        option(
            EXPERIMENT,
            "Rows of each table at length 1, as models read them, or as stored, where the table "
            "with longer rows dominates a set a+b.",
        ),
    ] = "rows"
    normalize_items: Annotated[
        bool,
        option(
            EXPERIMENT,
            "Rows of a history at length 1, those of a set a+b side by side.",
            name="--normalize-items",
        ),
    ] = False
    score: Annotated[
        Literal["cosine", "iuf", "pearson", "adjusted_cosine"],
        option(EXPERIMENT, "Score of item-CF."),
    ] = "cosine"
    min_common: Annotated[
        int,
        option(EXPERIMENT, "Users that two items have in common.", "N", parser=positive_int),
    ] = 1
    mask_ratio: Annotated[
        float, option(EXPERIMENT, "Share of items to mask.", "X", parser=fraction)
    ] = 0.5
    seed: Annotated[
        int, option(EXPERIMENT, "Seed of masks and random ties.", "N", parser=natural)
    ] = 0
    no_map: Annotated[
        bool, option(OUTPUT, "Draw no t-SNE, which takes the longest.", name="--no-map")
    ] = False


def features(options: FeaturesOptions) -> None:
    """Evaluate feature tables before any training (Table 3 of the paper).

        alignrec features
        alignrec features films --tables clip=clip.npy --sets clip image+text
        alignrec features films --items items.csv --text title --images images.zip
            --encoder tfidf patch_pca minilm=hub:all-MiniLM-L6-v2 beit3=stage1/encoder

    PATH is a folder that encode wrote, or any in MMRec's format; without it, generated data. Each
    set is one or more of the data's tables (a+b, side by side, with rows at length 1 as models read
    them); by default each table alone and all together. The files of --tables hold the output of
    any encoder; --encoder makes tables here, of the texts and images of --items. Three protocols:

        zero-shot   is a user's latest item like the mean of the earlier ones?
        mask N %    the same where that share of the items has lost one table of the set (zeros in
                    its place), or, for a set that fuses modalities, where --replace
                    SET:MODALITY=TABLE gives the rows that its encoder makes of the other alone
        item-CF     is the item that users take together with another most like that one?

    What the paper leaves open is an option each, with the plainest reading as default. Where times
    are not known, the validation links of the split are to be found instead of the latest ones. The
    paper takes all links, test links included; --links train keeps them out of the choice.

    The best set is the one of the highest zero-shot recall@20. OUT/features.json, .csv and .md hold
    the results; features.png, drawn afterwards, a t-SNE (scikit-learn) of each set: at most 2,000
    items drawn with seed 0, coloured by their number of links. --no-map leaves it out.
    """
    import torch

    from alignrec_pyg.cli.encoder_specs import add_encoded
    from alignrec_pyg.experiments.features import (
        ITEM_CF,
        FeatureSet,
        Protocols,
        feature_sets,
        protocol_data,
        replacement_tables,
    )
    from alignrec_pyg.experiments.features_report import FeaturesReport, feature_maps
    from alignrec_pyg.experiments.paper import table_3
    from alignrec_pyg.experiments.provenance import commit, hardware, versions
    from alignrec_pyg.experiments.reading import data_name, read
    from alignrec_pyg.experiments.settings import SettingsError
    from alignrec_pyg.feature_eval.item_targets import OF_RATINGS
    from alignrec_pyg.graph import INTERACTS
    from alignrec_pyg.nn.features import uneven_rows
    from alignrec_pyg.text_tables import aligned_table

    problems: list[str] = []
    device, tables = options.torch_device(problems), options.table_files(problems)
    out = options.results_folder(problems)
    if problems:
        raise SettingsError(problems)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data, read_report, names = read(options.data, None, tables, problems)
    data, encoded = add_encoded(
        data,
        options.encoder,
        problems,
        items=options.items,
        items_id=options.items_id,
        text=options.text,
        image=options.image,
        images=options.images,
        device=device,
    )
    names = [*names, *encoded]
    replacements = replacement_tables(options.replace, names, problems)
    sets = feature_sets(options.sets, names, replacements, problems)
    if options.score in OF_RATINGS and "rating" not in data[INTERACTS]:
        problems.append(f"--score {options.score}: the data has no ratings (cosine, iuf need none)")
    try:
        seen = protocol_data(
            data,
            targets=options.targets,
            links=options.links,
            split=options.split,
            val_from_train=options.val_from_train,
        )
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(problems)
    name = data_name(options.data)
    source = str(replace(read_report, features=()))
    print(f"data: {name}\n{source}", flush=True)
    chosen = {n: v for n, v in vars(options).items() if n in Protocols.__dataclass_fields__}
    protocols = Protocols(**chosen, ks=tuple(sorted(set(options.k))))
    paper = table_3(name, read_report) if options.links == "all" else {}
    if seen.held_out is not None:  # the paper finds latest links
        paper = {block: rows for block, rows in paper.items() if block == ITEM_CF}
    uneven = uneven_rows(data, names)
    consequence = (
        "and scaled here, as commands and ConcatFeatures scale them for models"
        if options.feature_scale == "rows"
        else "which they outweigh in a set: --feature-scale rows scales both"
    )
    report = FeaturesReport(
        blocks=protocols.evaluate(seen, sets, replacements, device),
        sets={
            text: FeatureSet.of(data, parts, normalize_parts=options.feature_scale == "rows")
            for text, parts in sets.items()
        },
        paper=paper,
        about={
            "data": name,
            **seen.about,
            "options": str(protocols),
            **({} if uneven is None else {"ATTENTION": f"{uneven} as stored, {consequence}"}),
            "commit": commit(),
            "hardware": hardware(device),
            "versions": ", ".join(
                f"{package} {version}" for package, version in versions().items()
            ),
        },
        source=source,
    )
    print("\n" + aligned_table(report.recall_rows(), left=(0, 1), rule=True))
    print("\n" + aligned_table(report.set_rows(), left=(0, 5), rule=True) + "\n")
    print("\n".join(report.notes()))
    for written in report.write(out, None if options.no_map else partial(feature_maps, data)):
        print("written: " + ", ".join(str(path) for path in written), flush=True)


main = script(FeaturesOptions, features, features.__doc__)
