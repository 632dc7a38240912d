"""Mask modality: what features are worth where many items lack an image, or a text."""

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
    r"""The items to mask: the first :math:`\lfloor \rho |I| \rfloor` of a permutation.

    One permutation per seed, so a smaller ratio masks some of the items of a larger one, and all
    feature sets lose the same items.

    Args:
        num_items: Number of items :math:`|I|`.
        ratio: Share to mask :math:`\rho`, in [0, 1].
        seed: Seed of the permutation.

    Returns:
        int64, in the order drawn.

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
    """Graph in which some items have lost a modality; the input is left as it was.

    Args:
        data: Graph with the feature tables.
        masked: Feature table whose rows change for the items drawn.
        ratio: Share of items to draw.
        seed: Seed of the draw (see :func:`masked_items`).
        replacement: Feature table, as wide as ``masked``, that holds what an encoder of both
            modalities makes of the remaining one alone. Without, the rows become zeros and the
            items are marked as lacking the table.

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
    """Mask-modality recommendation: a protocol where a share of the items has lost a modality.

    The third of the training-free evaluations of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). Of concatenated tables the masked one becomes zeros for the items drawn, the
    other ones stay: ``mask_modality(data, ["image", "text"], "image")``. An encoder that fuses both
    gives another row from the remaining one: ``mask_modality(data, "mm", "mm",
    replacement="mm_of_text")``.

    Args:
        data: Graph with links and feature tables.
        features: Feature tables that the protocol reads.
        masked: The one of them to mask.
        ratio: Share of items to mask; the paper masks half.
        seed: Seed of the draw (see :func:`masked_items`); the authors' own is not published.
        replacement: Table that gives the masked items' rows instead of zeros.
        protocol: What to run; the paper runs zero-shot. Its options are bound beforehand, as in
            ``functools.partial(zero_shot, exclude_history=True)``.

    Raises:
        ValueError: If ``masked`` is not of ``features``, or is all of them and nothing replaces it;
            as :func:`mask_features` and the protocol.
    """
    names = (features,) if isinstance(features, str) else tuple(features)
    if masked not in names:
        raise ValueError(f"'masked' needs to be one of the features {names} (got {masked!r})")
    if names == (masked,) and replacement is None:
        raise ValueError(
            f"'{masked}' is the only feature table, so that masked items would have none: give "
            "'replacement', the encoder's rows of the remaining modality, or concatenate tables"
        )
    changed = mask_features(data, masked, ratio=ratio, seed=seed, replacement=replacement)
    return protocol(changed, features)
