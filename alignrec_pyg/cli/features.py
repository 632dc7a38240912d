"""``alignrec features``: what feature tables are worth before any training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignrec_pyg.cli.options import Device, device_named, positive_int
from alignrec_pyg.text_tables import aligned_table

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def features(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What encode wrote, or any MMRec folder.")
    ],
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k",
            parser=positive_int,
            metavar="K ...",
            help="Cut-offs of recall.",
            show_default="10 20 50",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Judge feature tables by the paper's three evaluations, without training.

    Zero-shot: is a user's latest item like the mean of the earlier ones (where times are not known:
    the validation items like the training items)? Mask: the same where half of the items have lost
    one of the tables. Item-CF: is the item that users take together with another most like that
    one? Each table alone and all side by side, with popularity and random order beside them.
    """
    from alignrec_pyg.datasets import MMRecFolder
    from alignrec_pyg.graph import feature_names

    data = MMRecFolder(folder).data
    names = feature_names(data)
    if not names:
        raise ValueError(f"{folder} has no feature table (<name>.npy): alignrec encode makes some")
    sets = {name: [name] for name in names}
    if len(names) > 1:
        sets["+".join(names)] = names
    recalls = _recalls(data, sets, tuple(sorted(set(k or (10, 20, 50)))), device_named(device))
    print(f"{recalls}\n\n{_cosines(data, sets)}")


def _recalls(
    data: HeteroData, sets: Mapping[str, list[str]], ks: tuple[int, ...], device: str
) -> str:
    """Recall of every protocol and set; masking has the reference lines of zero-shot."""
    from alignrec_pyg.experiments.features import (
        ANY_TIED,
        MASK,
        Protocols,
        protocol_data,
        reference_lines,
    )

    blocks = Protocols(ks=ks).evaluate(protocol_data(data), sets, {}, device)
    rows = [["protocol", "features", *(f"recall@{k}" for k in ks)]]
    for protocol, recalls in blocks.items():
        if protocol == ANY_TIED:
            continue
        lines = {name: recall.recall for name, recall in recalls.items()}
        if not protocol.startswith(MASK):
            lines |= reference_lines(recalls)
        rows += [[protocol, name, *(f"{line[k]:.4f}" for k in ks)] for name, line in lines.items()]
    return aligned_table(rows, left=(0, 1))


def _cosines(data: HeteroData, sets: Mapping[str, list[str]]) -> str:
    from alignrec_pyg import cosine_statistics
    from alignrec_pyg.graph import feature_table

    rows = [["features", "width", "items without", "cosine mean", "cosine std"]]
    for name, parts in sets.items():
        width = sum(feature_table(data, part).size(1) for part in parts)
        told = cosine_statistics(data, parts)
        rows.append(
            [name, f"{width:,}", f"{told.num_missing:,}", f"{told.mean:.4f}", f"{told.std:.4f}"]
        )
    return aligned_table(rows)
