"""Masked-modality evaluation: features of items that partly lack a modality."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.feature_eval.protocols import zero_shot
from alignrec_pyg.feature_eval.recall import FeatureRecall
from alignrec_pyg.graph import ITEM, feature_key, feature_mask, feature_table, mask_key


def masked_items(num_items: int, *, ratio: float = 0.5, seed: int = 0) -> Tensor:
    r"""Draws the items to mask, the first :math:`\lfloor \rho |I| \rfloor` of a permutation.

    The permutation depends on the seed only: a smaller ratio masks a subset of the items of a
    larger one, and the same items are masked in all feature tables.

    Args:
        num_items: Number of items :math:`|I|`.
        ratio: Share of items to mask :math:`\rho`, in [0, 1].
        seed: Seed of the permutation.

    Returns:
        Indices of the items, int64, in random order.

    Raises:
        ValueError: If ``ratio`` is not in [0, 1].
    """
    check_number("ratio", ratio, least=0, most=1)
    count = int(ratio * num_items + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))[:count]


def mask_features(
    data: HeteroData,
    masked: str,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    replacement: str | None = None,
) -> HeteroData:
    """Removes a modality from some items; the input is unchanged.

    Args:
        data: Graph with the feature tables.
        masked: Feature table to mask.
        ratio: Share of items to mask.
        seed: Seed of the selection (see :func:`masked_items`).
        replacement: Feature table of the same width as ``masked``, with the rows that an encoder of
            both modalities computes from the remaining one alone. By default, the rows become zeros
            and the items are marked as missing.

    Raises:
        ValueError: If a table is missing, the widths differ, or ``ratio`` is not in [0, 1].
    """
    table, mask = feature_table(data, masked).detach(), feature_mask(data, masked)
    items = masked_items(table.size(0), ratio=ratio, seed=seed).to(table.device)
    table, mask = table.clone(), mask.clone()
    if replacement is None:
        table[items], mask[items] = 0, True
    else:
        other = feature_table(data, replacement)
        if other.shape != table.shape:
            raise ValueError(
                f"'replacement' needs the shape {tuple(table.shape)} of '{masked}' (got "
                f"{tuple(other.shape)}): it holds the same encoder's rows of the remaining modality"
            )
        table[items] = other.detach()[items]
        mask[items] = feature_mask(data, replacement)[items]
    result = copy.copy(data)
    result[ITEM][feature_key(masked)] = table
    result[ITEM][mask_key(masked)] = mask
    return result


def mask_modality(
    data: HeteroData,
    features: str | Sequence[str],
    masked: str,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    replacement: str | None = None,
    protocol: Callable[[HeteroData, str | Sequence[str]], FeatureRecall] = zero_shot,
) -> FeatureRecall:
    """Mask-modality recommendation: evaluates features when a share of the items lacks a modality.

    This is the third training-free evaluation of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). If several tables are concatenated, the rows of the masked one become zero for
    the selected items: ``mask_modality(data, ["image", "text"], "image")``. An encoder that fuses
    both modalities gives another row for the remaining one:
    ``mask_modality(data, "mm", "mm", replacement="mm_of_text")``.

    Args:
        data: Graph with links and feature tables.
        features: Feature tables that are evaluated.
        masked: The one of them to mask.
        ratio: Share of items to mask; the paper masks half of them.
        seed: Seed of the selection (see :func:`masked_items`); that of the authors is unpublished.
        replacement: Table with the rows of masked items, instead of zeros.
        protocol: The evaluation protocol; the paper uses zero-shot. Bind its options beforehand, as
            in ``functools.partial(zero_shot, exclude_history=True)``.

    Raises:
        ValueError: If ``masked`` is not one of ``features``, or is the only one and there is no
            ``replacement``; as :func:`mask_features` and the protocol.
    """
    names = (features,) if isinstance(features, str) else tuple(features)
    if masked not in names:
        raise ValueError(f"'masked' needs to be one of the features {names} (got {masked!r})")
    if names == (masked,) and replacement is None:
        raise ValueError(
            f"'{masked}' is the only feature table, so that masked items would have no features: "
            "give 'replacement', the encoder's rows of the remaining modality, or concatenate "
            "tables"
        )
    changed = mask_features(data, masked, ratio=ratio, seed=seed, replacement=replacement)
    return protocol(changed, features)
