r"""Table 3 of the paper: how good features are for recommendation, without training anything.

    python benchmarks/features.py
    python benchmarks/features.py --data FOLDER --tables clip=clip.npy --sets clip image+text
    python benchmarks/features.py --data FOLDER --catalogue items.csv --images images.zip \
        --encoders tfidf patch_pca minilm=hub:all-MiniLM-L6-v2 beit3=stage1/encoder

Each set is one or more of the data's tables (``a+b``, concatenated); by default each table alone
and all together. The files of ``--tables`` hold the output of any encoder; ``--encoders`` makes
tables here, from a ``--catalogue`` with ``--images``. Three protocols:

- zero-shot: is a user's latest item like the mean of the earlier ones?
- mask N %: the same where that share of the items has lost one table of the set (zeros in its
  place), or, for a set that fuses modalities, where ``--replace SET:MODALITY=TABLE`` gives the rows
  that its encoder makes of the other modality alone;
- item-CF: is the item that users take together with another most like that one?

What the paper leaves open is an option each, with the plainest reading as default. Where times are
not known, the validation links of the split are to be found instead of the latest ones. The paper
takes all links, test links included; ``--links train`` keeps them out of the choice of features.

The best set is the one of the highest zero-shot recall@20. ``<out>/features.json``, ``.csv`` and
``.md`` hold the results, ``features.png`` a t-SNE (scikit-learn) of each set: at most 2,000 items
drawn with seed 0, coloured by their number of links.

Exit status: 0, 2 if the arguments do not fit or a file cannot be read or written, 130 after Ctrl-C.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import device_named, named_files, results_folder
from alignrec_pyg.cli.command import INTERRUPTED
from alignrec_pyg.experiments.charts import chart_problem
from alignrec_pyg.experiments.encoded_tables import add_encoded
from alignrec_pyg.experiments.paper import ProtocolResults, table_3
from alignrec_pyg.experiments.prepare import data_name, errors_about, read
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.experiments.session import log
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.feature_eval import (
    FeatureRecall,
    ItemCFRecall,
    cosine_statistics,
    item_cf,
    mask_modality,
    zero_shot,
)
from alignrec_pyg.feature_eval.item_targets import OF_RATINGS
from alignrec_pyg.graph import INTERACTS, content_hash, feature_table, on_device
from alignrec_pyg.transforms import SplitInteractions
from alignrec_pyg.transforms.split_interactions import SplitRule
from benchmarks.features_arguments import (
    IN_TIME,
    feature_sets,
    make_parser,
    options_text,
    replacement_tables,
)
from benchmarks.features_report import (
    ANY_TIED,
    ITEM_CF,
    KS,
    ZERO_SHOT,
    Blocks,
    FeatureSet,
    FeaturesReport,
    feature_maps,
    notes,
    recall_table,
    sets_table,
    write,
)


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """Where the protocols look.

    Args:
        links: Links of item-CF and, by time, of zero-shot.
        held_out: Split whose links to predict zero-shot finds; ``None`` by time.
        about: Which links these are.
    """

    links: HeteroData
    held_out: HeteroData | None
    about: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates the features.

    Returns:
        0, 2 if the arguments do not fit or a file cannot be read or written, 130 after Ctrl-C.
    """
    try:
        _run(make_parser(__doc__).parse_args(arguments))
    except SettingsError as error:
        log(f"features.py: {len(error.problems)} problem(s):")
        for problem in error.problems:
            log(f"  - {problem}")
        return 2
    except OSError as error:
        log(f"features.py: {error}")
        return 2
    except KeyboardInterrupt:
        log("interrupted")
        return INTERRUPTED
    return 0


def _run(options: argparse.Namespace) -> None:
    problems: list[str] = []
    device = device_named(options.device, problems)
    tables = named_files("--tables", "FILE.npy", options.tables, problems)
    out = results_folder(options, problems)
    if problems:
        raise SettingsError(problems)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data, read_report, names = read(options.data, None, tables, problems)
    data, encoded = add_encoded(
        data,
        options.encoders,
        options.catalogue,
        options.fields,
        options.images,
        device,
        problems,
    )
    names = [*names, *encoded]
    replacements = replacement_tables(options.replace, names, problems)
    sets = feature_sets(options.sets, names, replacements, problems)
    graphs = _graphs(options, data, problems)
    if problems:
        raise SettingsError(problems)
    name = data_name(options.data)
    source = str(replace(read_report, features=()))
    print(f"data: {name}\n{source}", flush=True)
    blocks = evaluate(options, graphs, sets, replacements, device)
    report = FeaturesReport(
        blocks=blocks,
        sets={text: _described(data, parts, options) for text, parts in sets.items()},
        paper=_comparable(table_3(name, read_report), options, graphs),
        about={
            "data": name,
            **graphs.about,
            "options": options_text(options),
            "commit": commit(),
            "hardware": hardware(device),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        },
        source=source,
    )
    print("\n" + "\n".join([*recall_table(report), "", *sets_table(report), ""]))
    print("\n".join(notes(report)))
    written = write(report, out, feature_maps(data, report.sets))
    print("written: " + ", ".join(str(path) for path in written))
    if (problem := chart_problem()) is not None:
        print(problem)


def _described(data: HeteroData, parts: Sequence[str], options: argparse.Namespace) -> FeatureSet:
    tables = [feature_table(data, part) for part in parts]
    return FeatureSet(
        tables=parts,
        normalize_parts=options.normalize_parts,
        width=sum(table.size(1) for table in tables),
        cosine=cosine_statistics(data, parts, normalize_parts=options.normalize_parts),
        content_hash=content_hash(*tables),
    )


def evaluate(
    options: argparse.Namespace,
    graphs: Graphs,
    sets: Mapping[str, list[str]],
    replacements: Mapping[tuple[str, str], str],
    device: torch.device,
) -> Blocks:
    """Recall by protocol and set; a set without an entry cannot be masked so."""
    links = on_device(graphs.links, device)
    zero_shot_data = links if graphs.held_out is None else on_device(graphs.held_out, device)
    find_users_items = partial(
        zero_shot,
        ks=KS,
        targets="time" if graphs.held_out is None else "labels",
        similarity=options.similarity,
        exclude_history=options.exclude_history,
        ties=options.ties,
        normalize_parts=options.normalize_parts,
        normalize_items=options.normalize_items,
        seed=options.seed,
    )
    find_items_items = partial(
        item_cf,
        ks=KS,
        score=options.score,
        min_common=options.min_common,
        similarity=options.similarity,
        normalize_parts=options.normalize_parts,
    )
    share = f"{100 * options.mask_ratio:g} %"
    blocks: dict[str, dict[str, FeatureRecall]] = {}

    def run(block: str, text: str, protocol: Callable[..., FeatureRecall], *args: Any) -> None:
        start = perf_counter()
        with errors_about(f"{block} on {text}"):
            found = protocol(*args)
        log(f"{block} on {text}: recall@20 {found.recall[20]:.4f} ({perf_counter() - start:.1f} s)")
        blocks.setdefault(block, {})[text] = found
        if isinstance(found, ItemCFRecall):
            blocks.setdefault(ANY_TIED, {})[text] = found.any_tied

    for text, parts in sets.items():
        run(ZERO_SHOT, text, find_users_items, zero_shot_data, parts)
    for text, parts in sets.items():
        masked: dict[str, tuple[str, str | None]] = {}
        if len(parts) > 1:
            masked = {part: (part, None) for part in parts}
        masked |= {m: (parts[0], table) for (of, m), table in replacements.items() if of == text}
        for modality, (table, replacement) in masked.items():
            protocol = partial(
                mask_modality,
                ratio=options.mask_ratio,
                seed=options.seed,
                replacement=replacement,
                protocol=find_users_items,
            )
            run(f"mask {share} {modality}", text, protocol, zero_shot_data, parts, table)
    for text, parts in sets.items():
        run(ITEM_CF, text, find_items_items, links, parts)
    return blocks


def _graphs(options: argparse.Namespace, data: HeteroData, problems: list[str]) -> Graphs:
    timed = "time" in data[INTERACTS]
    targets = options.targets or (IN_TIME if timed else "val")
    if targets == IN_TIME and not timed:
        problems.append(f"--targets {IN_TIME}: the data has no times (val and test need none)")
    if options.score in OF_RATINGS and "rating" not in data[INTERACTS]:
        problems.append(f"--score {options.score}: the data has no ratings (cosine, iuf need none)")
    train, held_out, about = data, None, "the latest link in time of each user"
    if options.links == "train" or targets != IN_TIME:
        rule: SplitRule = options.split or ("labels" if "split" in data[INTERACTS] else "random")
        with errors_about("--split"):
            train, val, test = SplitInteractions(rule)(data)
        if targets != IN_TIME:
            held_out = val if targets == "val" else test
            about = f"the {targets} links of the split '{rule}', with the train links as history"
    links = data if options.links == "all" else train
    told = "all links" if options.links == "all" else "train links"
    if targets == IN_TIME:
        about += f" (of {told})"
    return Graphs(
        links=links,
        held_out=held_out,
        about={"to find in zero-shot": about, "links of item-CF": told},
    )


def _comparable(
    paper: ProtocolResults, options: argparse.Namespace, graphs: Graphs
) -> ProtocolResults:
    """Published figures of the protocols that run on the paper's links."""
    if options.links != "all":
        return {}
    if graphs.held_out is not None:
        return {block: rows for block, rows in paper.items() if block == ITEM_CF}
    return paper


if __name__ == "__main__":
    sys.exit(main())
