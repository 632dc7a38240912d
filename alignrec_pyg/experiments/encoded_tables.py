"""Feature tables by encoders that a command line names, from a catalogue of the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.encoder_specs import encoder_spec
from alignrec_pyg.graph import ITEM, feature_names
from alignrec_pyg.pretraining.catalogue import read_catalogue
from alignrec_pyg.transforms import EncodeItems


def add_encoded(
    data: HeteroData,
    entries: Sequence[str],
    catalogue: Path | None,
    fields: Sequence[str],
    images: Path | None,
    device: torch.device,
    problems: list[str],
) -> tuple[HeteroData, list[str]]:
    """``data`` with a table for each entry of ``--encoders``, and the tables' names.

    Args:
        data: Data with the items' ids.
        entries: As :func:`~alignrec_pyg.cli.encoder_specs.encoder_spec` takes them.
        catalogue: Table of items, found by their ids; items that it lacks have no content.
        fields: Its columns that make up the text.
        images: Folder or zip file of images, named by id.
        device: Where the encoders run.
        problems: What does not fit is appended.
    """
    if not entries:
        if catalogue is not None or images is not None:
            problems.append("--catalogue, --images: nothing reads them without --encoders")
        return data, []
    if catalogue is None or images is None:
        problems.append("--encoders: needs --catalogue and --images, what is to be encoded")
        return data, []
    names: list[str] = []
    try:
        items = read_catalogue(catalogue, fields=fields, images=images)
    except (ValueError, OSError) as error:
        problems.append(f"--catalogue {catalogue}: {error}")
        return data, []
    row = {str(item): row for row, item in enumerate(items.id)}
    rows = [row.get(str(item)) for item in data[ITEM].id]
    data[ITEM].text = [None if at is None else items.text[at] for at in rows]
    data[ITEM].image = [None if at is None else items.image[at] for at in rows]
    print(f"{sum(at is not None for at in rows):,} of {len(rows):,} items are in {catalogue.name}")
    for entry in entries:
        try:
            spec = encoder_spec(entry)
            if spec.name in feature_names(data):
                raise ValueError("the data has a table of this name already")
            encode = EncodeItems(spec.build(device=str(device)), spec.name)
            data = encode(data)
        except (ValueError, ImportError, RuntimeError, OSError) as error:
            problems.append(f"--encoders {entry}: {error}")
        else:
            names.append(spec.name)
            print(encode.report)
    for raw in ("text", "image"):  # what is evaluated are the tables
        del data[ITEM][raw]
    return data, names
