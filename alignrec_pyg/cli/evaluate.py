"""``alignrec evaluate``: a trained model on the test links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from alignrec_pyg.cli.options import DataFolder, Device, device_named, log, positive_int
from alignrec_pyg.text_tables import aligned_table
from alignrec_pyg.train_config import METRICS

if TYPE_CHECKING:
    from alignrec_pyg import Recommender
    from alignrec_pyg.cli.runs import Run

ValueT = TypeVar("ValueT")
Groups = dict[str, list[dict[str, Any]]]
"""Metrics by kind of group."""

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="What train wrote.")]


def evaluate(
    run: RunFolder,
    data: DataFolder = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k",
            parser=positive_int,
            metavar="K ...",
            help="Cut-offs of the metrics.",
            show_default="10 20",
        ),
    ] = None,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups",
            help="Also by activity of users and popularity of items, at the largest K.",
        ),
    ] = False,
    exclude_known_pairs: Annotated[
        bool,
        typer.Option(
            "--exclude-known-pairs",
            help="Leave the user's known pairs, such as low ratings, and validation links out of "
            "rankings; published figures rank them.",
        ),
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the figures, unrounded.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Score the test links, once.

    All items are ranked except the user's training links (validation links are ranked, as in the
    papers' tables); metrics are means over the users with test links. Below each metric are those
    of Popularity and ItemKNN on the same links, which need no training: a model should beat them.
    """
    from alignrec_pyg import evaluate as evaluate_model
    from alignrec_pyg.cli.runs import load_run
    from alignrec_pyg.storage import write_text

    trained = load_run(run, data, device_named(device))
    cut_offs = sorted(set(k or (10, 20)))
    scored = _with_baselines(trained)
    metrics, *others = (
        evaluate_model(model, trained.test, cut_offs, exclude_known_pairs=exclude_known_pairs)
        for model in scored.values()
    )
    baselines = dict(zip(list(scored)[1:], others, strict=True))
    without = ", known pairs and validation links not ranked" if exclude_known_pairs else ""
    rows = [["", *(f"@{cut_off}" for cut_off in cut_offs)]]
    for name in METRICS:
        for label, values in {name: metrics, **_indented(baselines)}.items():
            rows.append([label, *(f"{values[f'{name}@{cut_off}']:.4f}" for cut_off in cut_offs)])
    print(
        f"{trained.settings.model} on the test links of {metrics['num_users']:,.0f} users "
        f"({trained.data_folder.name}, split {trained.settings.split}{without})\n"
        f"{aligned_table(rows)}"
    )
    figures: dict[str, Any] = {"model": trained.settings.model, "metrics": metrics}
    figures["baselines"] = baselines
    figures["exclude_known_pairs"] = exclude_known_pairs
    if groups:
        longest = cut_offs[-1]
        of_model, *of_others = (
            _groups(trained, model, longest, exclude_known_pairs) for model in scored.values()
        )
        figures["groups"] = of_model
        figures["baseline_groups"] = dict(zip(baselines, of_others, strict=True))
        _print_groups(of_model, figures["baseline_groups"], longest)
    if json is not None:
        write_text(json, dumps(figures, indent=2) + "\n")
        log(f"written: {json}")


def _with_baselines(run: Run) -> dict[str, Recommender]:
    """The model, and the baselines that every model should beat, solved on the training links."""
    from alignrec_pyg import ItemKNN, Popularity
    from alignrec_pyg.graph import INTERACTS

    scored: dict[str, Recommender] = {run.settings.model: run.model}
    for kind in (Popularity, ItemKNN):
        if not isinstance(run.model, kind):
            baseline = kind(run.train).to(run.train[INTERACTS].edge_index.device)
            baseline.solve(run.train)
            scored[kind.__name__] = baseline
    return scored


def _indented(values: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The lines below a metric of the model."""
    return {f"  {name}": value for name, value in values.items()}


def _groups(run: Run, model: Recommender, k: int, exclude_known_pairs: bool) -> Groups:
    """The metrics of groups of users and of items."""
    from alignrec_pyg import activity_groups, popularity_groups, rank, user_metrics
    from alignrec_pyg.experiments.results import json_values
    from alignrec_pyg.graph import links_to_predict

    links = links_to_predict(run.test)
    longest = min(k, model.num_items)
    ranking = rank(model, run.test, longest, exclude_known_pairs=exclude_known_pairs)
    found: dict[str, Sequence[Any]] = {
        "activity": activity_groups(user_metrics(ranking, links, longest), run.train),
        "popularity": popularity_groups(ranking, run.train, links, longest),
    }
    return {kind: json_values([asdict(group) for group in found[kind]]) for kind in found}


def _print_groups(groups: Groups, baselines: Mapping[str, Groups], k: int) -> None:
    rows = [["", "train links", "users", f"recall@{k}", f"ndcg@{k}"]]
    for kind, entries in groups.items():
        for number, group in enumerate(entries):
            low, high = group["min_degree"], group["max_degree"]
            about = [f"{low} to {high}" if low <= high else "none", f"{group['num_users']:,}"]
            name = f"items: {group['name']}" if "name" in group else "users"
            rows.append([name, *about, *_shown(group)])
            for label, theirs in _indented(baselines).items():
                rows.append([label, "", "", *_shown(theirs[kind][number])])
    print(f"\n{aligned_table(rows)}")


def _shown(group: Mapping[str, Any]) -> list[str]:
    return ["" if group[m] is None else f"{group[m]:.4f}" for m in ("recall", "ndcg")]
