"""A trained model on other data: trained anew on all links, or trained further on more of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, USER, has_links_to_predict
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.tables import repr_short
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training import FitResult, fit
from alignrec_pyg.transforms.subset import select_rows

ModelT = TypeVar("ModelT", bound=Recommender)


def refit(
    model: ModelT,
    data: HeteroData,
    result: FitResult,
    config: TrainConfig | None = None,
    **options: Any,
) -> ModelT:
    """Trains a model that was chosen on validation anew, on all links, before it is served.

    There are no validation links to stop early by, so the new model is trained for as many epochs
    as the chosen one at its best epoch, and keeps the last weights.

    Args:
        model: The chosen model, which gives class and hyper-parameters and stays as it is.
        data: The graph with all links, without a split, with the features and item graphs that the
            model reads.
        result: What :func:`~alignrec_pyg.fit` returned for ``model``.
        config: How to train, but for ``max_epochs`` (default: as ``model`` was trained). Its
            ``seed`` also draws the initial weights.
        **options: Other arguments of :func:`~alignrec_pyg.fit`, such as ``checkpoint_dir``.

    Returns:
        The new model, on the device of ``model``, in evaluation mode.

    Raises:
        ValueError: If ``data`` is a part of a split, or lacks what the model reads.

    Example::

        result = fit(model, train, val, config)
        print(evaluate(model, test))
        served = refit(model, data, result)
        recommend(served, data, user_ids)
    """
    if has_links_to_predict(data):
        raise ValueError(
            "'data' needs all links, without a split (got links to predict): pass the graph that "
            "SplitInteractions was applied to"
        )
    config = result.config if config is None else config.completed(result.config, 0)
    fresh = _drawn_anew(model, data, config.seed)
    fit(fresh, data, None, replace(config, max_epochs=result.best_epoch), **options)
    return fresh


def grow(model: ModelT, data: HeteroData, new_data: HeteroData, *, seed: int = 0) -> ModelT:
    """Moves a trained model to data with more users, items or links, to be trained further there.

    Users and items that are also in ``data`` keep their rows in all tables, matched by id (without
    ids by number). The rows of new ones are drawn as those of an untrained model, and trained
    feature tables hold the features of new items. Weights that belong to no user or item stay as
    they are. Without new users and items no call is needed: :func:`~alignrec_pyg.fit` takes a
    trained model, too.

    Args:
        model: Trained model; it stays as it is.
        data: The graph it was trained on.
        new_data: The graph to go on with, in any order, with feature tables of the same widths and
            with the item graphs that the model reads.
        seed: Seed of the new rows.

    Returns:
        The new model, on the device of ``model``, in evaluation mode.

    Raises:
        ValueError: If a graph does not fit the model, the graphs share no user or no item, or the
            model is one in closed form.
    """
    if isinstance(model, ClosedFormRecommender):
        raise ValueError(
            f"'model' needs to be trained by steps (got {type(model).__name__}, which is solved "
            "anew): build it on 'new_data' and call fit"
        )
    model.check_fits(data, "data")
    grown = _drawn_anew(model, new_data, seed)
    rows = {kind: _known_rows(data, new_data, kind) for kind in (USER, ITEM)}
    owners = {
        name: kind
        for kind in rows
        for name in _names_that_grow(model, grown, _with_one_more(new_data, kind))
    }
    old = model.state_dict()
    parameters = {name for name, _ in grown.named_parameters()}
    with torch.no_grad():
        for name, value in grown.state_dict().items():
            kind = owners.get(name)
            given = old[name].to(value.device)
            if name not in parameters and given.shape[1:] != value.shape[1:]:
                continue  # made anew while training, such as a learned graph of the items
            if given.shape[1:] != value.shape[1:] or (kind is None and given.shape != value.shape):
                raise ValueError(
                    f"'new_data' needs feature tables as wide as those of 'data' ({name} has shape "
                    f"{tuple(value.shape)}, in 'model' {tuple(given.shape)})"
                )
            if kind is None:
                value.copy_(given)
            else:
                row = rows[kind].to(value.device)
                value[row >= 0] = given[row[row >= 0]]
    return grown.eval()


def _drawn_anew(model: ModelT, data: HeteroData, seed: int) -> ModelT:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model.clone_for(data).to(next(iter(model.state_dict().values())).device)


def _known_rows(data: HeteroData, new_data: HeteroData, kind: str) -> Tensor:
    """The number in ``data`` of each user or item of ``new_data``; -1 where it is not there."""
    ids, new_ids = data[kind].get("id"), new_data[kind].get("id")
    count, new_count = int(data[kind].num_nodes), int(new_data[kind].num_nodes)
    if (ids is None) != (new_ids is None):
        raise ValueError(
            f"'new_data' needs ids of the {kind}s as 'data' has them (only one of them has any): "
            "give both, or remove both to go by number"
        )
    if ids is None or new_ids is None:
        number = torch.arange(new_count)
        return number.where(number < count, -1)
    rows = pd.Index(ids).get_indexer(pd.Index(new_ids))
    if (rows < 0).all():
        raise ValueError(
            f"'new_data' needs some of the {kind}s of 'data' (none of {new_count:,} ids is known: "
            f"got {repr_short(new_ids[0])}, known are ids like {repr_short(ids[0])}): both need to "
            "be of one type and written alike, leading zeros included"
        )
    return torch.from_numpy(rows)


def _with_one_more(data: HeteroData, kind: str) -> HeteroData:
    """A copy of the graph with another user or item, which is like the last one."""
    more = copy.copy(data)
    store = more[kind]
    count = int(store.num_nodes)
    rows = torch.arange(count + 1).clamp(max=count - 1)
    values = {name: value for name, value in store.items() if name != "num_nodes"}
    store.update(select_rows(values, rows, count, f"{kind}s"))
    store.num_nodes = count + 1
    return more


def _names_that_grow(model: Recommender, grown: Recommender, more: HeteroData) -> list[str]:
    """Tensors that have a row for each of the nodes of which ``more`` has one more."""
    sizes = {name: value.size(0) for name, value in grown.state_dict().items() if value.dim()}
    return [
        name
        for name, value in _drawn_anew(model, more, 0).state_dict().items()
        if value.dim() and value.size(0) != sizes[name]
    ]
