"""Models on disk: what identifies them, and how they are saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.fingerprint import check_fingerprints, data_fingerprints
from alignrec_pyg.graph import INTERACTS, ITEM, USER, content_hash, on_device, require_graph
from alignrec_pyg.models.hparams import HyperParameters
from alignrec_pyg.models.inputs import select_item_graphs
from alignrec_pyg.models.saved_graph import graph_from_tensors, graph_tensors, plain_ids
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files

ModelT = TypeVar("ModelT", bound="SavedModel")

CONFIG = "config.json"
"""The manifest of a saved model."""

_WEIGHTS = "model.safetensors"
_FINGERPRINTS = "fingerprints.safetensors"
_GRAPH = "graph.safetensors"
_KEYS = {"model": str, "hparams": dict, "data": dict}


class SavedModel(HyperParameters):
    """A model of some users and items, which are checked when it is loaded.

    Args:
        data: Training graph.

    Raises:
        ValueError: If ``data`` has no users or items.
    """

    def __init__(self, data: HeteroData) -> None:
        super().__init__()
        require_graph(data, "data")
        self.num_users = int(data[USER].num_nodes)
        self.num_items = int(data[ITEM].num_nodes)
        if not self.num_users or not self.num_items:
            raise ValueError(
                "'data' needs at least one user and one item "
                f"(got {self.num_users} and {self.num_items})"
            )
        self._data_hashes = _ids_hashes(data)
        self.fingerprints: dict[str, Tensor] = {}

    def save_pretrained(self, folder: str | Path, data: HeteroData | None = None) -> None:
        """Writes ``model-<hash>.safetensors`` and ``config.json`` (which names it, and the rest).

        A previous model is removed last, so an interruption leaves it complete. If another process
        saves to the folder, this one waits.

        Args:
            folder: Where to save.
            data: The graph to recommend from. With it the folder holds all that
                :func:`~alignrec_pyg.load` needs on another machine: ids, known links, and the
                tables and item graphs that the model reads.

        Raises:
            CheckpointError: If the folder has a ``config.json`` that is damaged or somebody else's,
                or ``data`` has other ids, features or item graphs than the model was trained with.
            OSError: If the folder cannot be written; a previous model stays complete.
            ValueError: If a hyper-parameter has a value that JSON cannot hold, or ``data`` is not
                of this model.
        """
        path = Path(folder) / CONFIG
        config = self.description()
        contents: dict[str, Mapping[str, Tensor]] = {_WEIGHTS: self.state_dict()}
        if self.fingerprints:
            contents[_FINGERPRINTS] = self.fingerprints
        if data is not None:
            self._check_trained_on(data)
            contents[_GRAPH], config["graph"] = graph_tensors(data, *self.read_names())
        with folder_lock(path.parent, path.name):
            write_with_files(path, config, contents)

    def _check_trained_on(self, data: HeteroData) -> None:
        """Checks that a model saved with ``data`` can be loaded."""
        self.check_fits(data, "data")
        features, item_graphs = self.read_names()
        select_item_graphs(data, item_graphs, item_graphs)
        _check_hashes(type(self).__name__, self._data_hashes, _ids_hashes(data))
        found = data_fingerprints(data, features, item_graphs)
        check_fingerprints(type(self).__name__, self.fingerprints, found)

    def read_names(self) -> tuple[list[str], list[str]]:
        """Names of the tables and item graphs that the model reads."""
        names = sorted(self.fingerprints)
        features = [name.removeprefix("x_") for name in names if name.startswith("x_")]
        return features, [name.removeprefix("knn_") for name in names if name.startswith("knn_")]

    def description(self) -> dict[str, Any]:
        """What identifies the model on disk: class, hyper-parameters and sizes.

        Raises:
            ValueError: If a hyper-parameter has a value that JSON cannot hold.
        """
        for name, value in self.hparams.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name!r} needs to be a number, a string, None, or lists or dictionaries of "
                    f"such, for the model to be saved ({error})"
                ) from error
        return {
            "model": type(self).__name__,
            "hparams": self.hparams,
            "num_users": self.num_users,
            "num_items": self.num_items,
            "data": self._data_hashes,
        }

    def check_fits(self, data: HeteroData, argument: str) -> None:
        """Checks that ``data`` has the users and items of this model, on its device.

        Raises:
            ValueError: If not; ``argument`` names the graph in the message.
        """
        require_graph(data, argument)
        sizes = (int(data[USER].num_nodes), int(data[ITEM].num_nodes))
        if sizes != (self.num_users, self.num_items):
            raise ValueError(
                f"'{argument}' needs the {self.num_users} users and {self.num_items} items that "
                f"the model was built for (got {sizes[0]} and {sizes[1]})"
            )
        device = data[INTERACTS].edge_index.device
        others = {tensor.device for tensor in self.state_dict().values()} - {device}
        if others:
            raise ValueError(
                f"'{argument}' and the model need to be on one device (got {device} and "
                f"{', '.join(map(str, others))}): move them with .to(device)"
            )

    @classmethod
    def from_pretrained(
        cls: type[ModelT], folder: str | Path, data: HeteroData, *, strict: bool = False
    ) -> ModelT:
        """Builds the model that :meth:`save_pretrained` wrote, on the graph it was trained on.

        The known links may have changed since; users and items may not, and features and item
        graphs only by the rounding of another machine or number of threads (up to a thousandth of
        an item's values), with a warning. The model is in evaluation mode, on the device of
        ``data``.

        Args:
            folder: Where it was saved.
            data: The graph it was trained on. :func:`~alignrec_pyg.load` needs none.
            strict: Whether rounding is an error, too.

        Raises:
            CheckpointError: If files are missing or damaged, or belong to another model or graph.
        """
        return cls._load(folder, data, strict=strict)

    @classmethod
    def _load(
        cls: type[ModelT],
        folder: str | Path,
        data: HeteroData,
        *parts: nn.Module,
        strict: bool = False,
    ) -> ModelT:
        """Like :meth:`from_pretrained`; the constructor takes ``parts`` after ``data``."""
        folder = Path(folder)
        config, files = read_with_files(folder / CONFIG, _KEYS, [_WEIGHTS])
        if config["model"] != cls.__name__:
            raise CheckpointError(
                f"{folder} holds a {config['model']}, not a {cls.__name__}: "
                f"load it with {config['model']}.from_pretrained"
            )
        state: dict[str, Tensor] = files[_WEIGHTS]
        try:
            _check_shapes(folder, state, cls._shapes(data, *parts, **config["hparams"]))
            model = cls(data, *parts, **config["hparams"])
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{folder} does not fit 'data': {error}") from error
        _check_shapes(folder, state, _shapes(model))
        dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
        if len(dtypes) == 1:
            model.to(dtype=dtypes.pop())
        _check_hashes(folder, config["data"], model._data_hashes)
        stored = files.get(_FINGERPRINTS, {})
        check_fingerprints(folder, stored, model.fingerprints, strict=strict)
        model.load_state_dict(state)
        return model.to(data[INTERACTS].edge_index.device).eval()

    @classmethod
    def _shapes(cls, *args: Any, **kwargs: Any) -> dict[str, tuple[int, ...]] | None:
        """The shapes of a model's tensors, without allocating them.

        ``None`` where the constructor computes with their values.
        """
        try:
            with torch.device("meta"):
                return _shapes(cls(*args, **kwargs))
        except (RuntimeError, TypeError) as error:
            # All that torch says of tensors without values names their device.
            if "meta" not in str(error).lower():
                raise
            return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _check_shapes(
    folder: Path, stored: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]] | None
) -> None:
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if expected is not None and found != expected:
        differing = {
            name: (found.get(name), expected.get(name))
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        }
        raise CheckpointError(
            f"{folder} does not fit 'data': tensors (stored, expected) differ in {differing}"
        )


def stored_graph(folder: Path, device: torch.device | str) -> HeteroData:
    """The graph that :meth:`Recommender.save_pretrained` wrote.

    Raises:
        CheckpointError: If there is none, or files are missing or damaged.
    """
    config, files = read_with_files(folder / CONFIG, _KEYS)
    if _GRAPH not in files:
        raise CheckpointError(
            f"{folder} holds a model without its graph: load it on the graph it was trained on, "
            f"{config['model']}.from_pretrained(folder, data), or save it with "
            "save_pretrained(folder, data)"
        )
    try:
        data = graph_from_tensors(files[_GRAPH], config["graph"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} holds a graph that cannot be read ({error!r})") from error
    return on_device(data, device)


def _check_hashes(owner: Path | str, stored: Mapping[str, str], found: Mapping[str, str]) -> None:
    other = [name for name, value in found.items() if stored.get(name) != value]
    if other:
        raise CheckpointError(
            f"{owner} was trained with other {' and '.join(other)} than those of 'data': pass "
            "the data it was trained on"
        )


def _ids_hashes(data: HeteroData) -> dict[str, str]:
    return {f"{kind} ids": _ids_hash(data[kind].get("id")) for kind in (USER, ITEM)}


def _ids_hash(ids: Any) -> str:
    if ids is None:
        return content_hash(None)
    whole: list[Any] = [
        int(value) if isinstance(value, float) and value.is_integer() else value
        for value in plain_ids(ids)
    ]
    return content_hash(whole)
