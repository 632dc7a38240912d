"""``alignrec features``: what feature tables are worth before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignrec_pyg.cli.options import Device, device_named, positive_int
from alignrec_pyg.text_tables import aligned_table

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from alignrec_pyg import FeatureRecall

_ZERO_SHOT = "zero-shot"
_ITEM_CF = "item-CF"


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

    data = MMRecFolder(folder).data.to(device_named(device))
    names = feature_names(data)
    if not names:
        raise ValueError(f"{folder} has no feature table (<name>.npy): alignrec encode makes some")
    sets = {name: [name] for name in names}
    if len(names) > 1:
        sets["+".join(names)] = names
    ks = tuple(sorted(set(k or (10, 20, 50))))
    print(f"{_recalls(data, sets, ks)}\n\n{_cosines(data, sets)}")


def _recalls(data: HeteroData, sets: Mapping[str, list[str]], ks: tuple[int, ...]) -> str:
    """Recall of every protocol and set; masking has the scale of zero-shot."""
    from tqdm import tqdm

    found: dict[str, dict[str, FeatureRecall]] = {}
    jobs = _jobs(data, sets, ks)
    for protocol, name, job in tqdm(jobs, desc="features", unit="run", disable=None):
        found.setdefault(protocol, {})[name] = job()
    rows = [["protocol", "features", *(f"recall@{k}" for k in ks)]]
    for protocol, recalls in found.items():
        lines = {name: recall.recall for name, recall in recalls.items()}
        if protocol in (_ZERO_SHOT, _ITEM_CF):
            scale = next(iter(recalls.values()))
            lines |= {"(popularity)": scale.popularity, "(random)": scale.random}
        rows += [[protocol, name, *(f"{line[k]:.4f}" for k in ks)] for name, line in lines.items()]
    return aligned_table(rows, left=(0, 1))


def _jobs(
    data: HeteroData, sets: Mapping[str, list[str]], ks: tuple[int, ...]
) -> list[tuple[str, str, Callable[[], FeatureRecall]]]:
    """Protocol, set and what to run."""
    from alignrec_pyg import item_cf, mask_modality, zero_shot
    from alignrec_pyg.graph import INTERACTS
    from alignrec_pyg.transforms import SplitInteractions

    links, find = data, partial(zero_shot, ks=ks)
    if "time" not in data[INTERACTS]:
        labelled = "split" in data[INTERACTS]
        links = SplitInteractions("labels" if labelled else "random")(data)[1]
        find = partial(zero_shot, ks=ks, targets="labels")
    jobs: list[tuple[str, str, Callable[[], FeatureRecall]]] = [
        (_ZERO_SHOT, name, partial(find, links, parts)) for name, parts in sets.items()
    ]
    for name, parts in sets.items():
        for masked in parts if len(parts) > 1 else ():
            job = partial(mask_modality, links, parts, masked, protocol=find)
            jobs.append((f"mask 50 % of {masked}", name, job))
    jobs += [(_ITEM_CF, name, partial(item_cf, data, parts, ks=ks)) for name, parts in sets.items()]
    return jobs


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
