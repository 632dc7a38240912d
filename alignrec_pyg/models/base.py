"""The contract all models share."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
)

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.checks import check_choice, check_integer, check_number
from alignrec_pyg.fingerprint import check_fingerprints, data_fingerprints
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    InteractionBatch,
    Nodes,
    content_hash,
    feature_table,
    knn_edge_type,
    on_device,
    require_graph,
)
from alignrec_pyg.models.inputs import (
    PAPER_DATA_SETS,
    ModelInputs,
    require_features,
    select_features,
    select_item_graph,
    select_item_graphs,
)
from alignrec_pyg.models.saved_graph import graph_from_tensors, graph_tensors, plain_ids
from alignrec_pyg.nn import (
    Adjacency,
    ItemToUserAggregation,
    MessageFlow,
    item_to_user_adjacency,
    user_item_adjacency,
)
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files
from alignrec_pyg.train_config import TrainConfig

ModelT = TypeVar("ModelT", bound="Recommender")
PreparedT = TypeVar("PreparedT")


CONFIG = "config.json"
"""The manifest of a saved model."""

_WEIGHTS = "model.safetensors"
_FINGERPRINTS = "fingerprints.safetensors"
_GRAPH = "graph.safetensors"
_KEYS = {"model": str, "hparams": dict, "data": dict}

_MAX_DIM = 1 << 16  # wider vectors are a slip of the pen, which would ask for all memory
_MAX_INTEGER = 1 << 63
# Training, validation and test graph may hold equal links in tensors of their own.
_NUM_PREPARED = 3


class _PreparedGraph(NamedTuple):
    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]
    prepared: Any


class Recommender(nn.Module, ABC):
    """A model that embeds users and items; the score of a pair is the inner product of its vectors.

    A model that scores otherwise overrides :meth:`scorer`.

    ``Model(train_data, **hyper_parameters)`` builds any model. ``data`` gives the sizes and the
    feature tables and is not kept. Every hyper-parameter is a keyword argument with a default,
    stored as an attribute of the same name (so :attr:`hparams` can list them).

    Args:
        data: Training graph (see :mod:`alignrec_pyg.graph`).
        embedding_dim: Width :math:`d` of the ID tables (``None``: the model has none).
        hparams: Arguments to store as attributes: ``locals()``, in the first line of a subclass's
            constructor. ``features``, ``item_graph`` and ``item_graphs`` become the names selected.
            A subclass may also store its arguments itself.

    Raises:
        ValueError: If ``embedding_dim`` is not in [1, 65536], ``data`` has no users or items, or
            one of ``hparams`` is not of its annotated type: numbers need to be finite,
            ``..._weight`` not negative, ``...temperature`` positive, ``num_...`` and ``..._dim``
            not negative.
    """

    inputs: ClassVar[ModelInputs] = ModelInputs()
    """What the model reads of the data, beside the links."""
    supports_new_items: bool = False
    """Whether content alone gives an item a vector, without an ID vector and without links."""
    supports_neighbor_sampling: bool = False
    """Whether training may draw neighbourhoods (``TrainConfig.fan_out``)."""
    not_copied: ClassVar[tuple[str, ...]] = ()
    """Attributes that are ``None`` in copies, such as graphs, which torch cannot copy."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Hyper-parameters have the types of the constructor's arguments."""

    def __new__(cls: type[ModelT], *args: Any, **kwargs: Any) -> ModelT:
        """Notes the hyper-parameters, which a subclass need not store."""
        model = super().__new__(cls)
        positional = zip(cls.hparam_parameters(), args[1:], strict=False) if args[1:] else ()
        given = {**dict(positional), **kwargs}
        model.__dict__["_given"] = {
            name: value
            for name, value in given.items()
            if not isinstance(value, HeteroData | Tensor | nn.Module)
        }
        return model

    def __init__(
        self,
        data: HeteroData,
        *,
        embedding_dim: int | None = None,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_graph(data, "data")
        if embedding_dim is not None:
            self.embedding_dim = check_integer("embedding_dim", embedding_dim, 1, _MAX_DIM)
        self.num_users = int(data[USER].num_nodes)
        self.num_items = int(data[ITEM].num_nodes)
        if not self.num_users or not self.num_items:
            raise ValueError(
                "'data' needs at least one user and one item "
                f"(got {self.num_users} and {self.num_items})"
            )
        self._data_hashes = _ids_hashes(data)
        self.fingerprints: dict[str, Tensor] = {}
        self._graphs: dict[str, tuple[_PreparedGraph, ...]] = {}
        if hparams is not None:
            self._store_hparams(data, hparams)

    def _store_hparams(self, data: HeteroData, hparams: Mapping[str, Any]) -> None:
        for name, parameter in self.hparam_parameters().items():
            if name in hparams:
                _check_hparam(name, hparams[name], parameter.annotation)
        for name, value in hparams.items():
            if name not in ("self", "data", "__class__"):
                setattr(self, name, value)
        tables = self.inputs.tables if "features" in hparams else "none"
        if tables == "optional":
            self.features = select_features(data, hparams["features"])
        elif tables != "none":
            self.features = require_features(data, hparams["features"], type(self).__name__)
        if tables != "none":
            self.fingerprints |= data_fingerprints(data, self.features, ())
        if "item_graph" in hparams:
            self.item_graph = self.select_item_graph(data, hparams["item_graph"])
        if "item_graphs" in hparams:
            graphs = hparams["item_graphs"]
            self.item_graphs = self.select_item_graphs(data, graphs, self.features)

    @classmethod
    def train_config(cls, data: HeteroData) -> TrainConfig:
        """How to train the model on ``data`` where nobody says otherwise."""
        return TrainConfig()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """How the paper, or the code behind its figures, trains the model."""
        return TrainConfig()

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """Hyper-parameters behind the published figures on a data set, where not the defaults.

        Here, ``faithful=True`` on the papers' data sets, if the model has this argument: figures
        come from code with defects then.

        Args:
            data_name: ``"baby"``, ``"sports"``, ``"elec"`` or any other.
        """
        has_defects = "faithful" in cls.hparam_parameters() and data_name in PAPER_DATA_SETS
        return {"faithful": True} if has_defects else {}

    @classmethod
    def why_not(cls, data: HeteroData) -> str | None:
        """Why ``data`` is too large for the model, ``"needs ..."``; ``None``, as here, if not."""
        return None

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draws all parameters anew from torch's global generator."""

    @abstractmethod
    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Embeds all users ``[num_users, d]`` and all items ``[num_items, d]``, or only ``nodes``.

        Only a model's own :meth:`loss_terms` passes ``nodes``, to compute what a batch reads; a
        model without this argument embeds all.
        """

    def scorer(self, data: HeteroData, items: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        r"""Returns the function that scores blocks of users: here, by inner products.

        A ranking calls this method once, in evaluation mode and without gradient, and the function
        for one block of users after the other. What all blocks share, such as the propagation,
        belongs before the function.

        Args:
            data: The graph to rank on.
            items: Numbers of the :math:`c` items to score, ascending; ``None`` means all.

        Shapes:
            - **input of the function:** numbers of users, int64 :math:`(b)`
            - **output of the function:** :math:`(b, c)`, which the caller may overwrite
        """
        user_x, item_x = self(data)
        return inner_products(user_x, item_x, items)

    @abstractmethod
    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """The named, unweighted terms of the training loss on a batch, scalars."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of every term of :meth:`loss_terms`.

        Here, 1 for ``bpr`` and the hyper-parameter ``<term>_weight`` for every other term.
        """
        names = [name for name in vars(self) if name.endswith("_weight")]
        return {"bpr": 1.0, **{name.removesuffix("_weight"): getattr(self, name) for name in names}}

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """Called before each epoch with a generator seeded by the epoch; does nothing here."""

    def on_batch_start(self, generator: torch.Generator) -> None:
        """Called before each batch with a generator seeded by the batch; does nothing here."""

    def loss(self, data: HeteroData, batch: InteractionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss on a batch: the weighted sum of its terms, and the terms themselves.

        A term of weight 0 is reported but not differentiated.
        """
        terms = self.loss_terms(data, batch)
        weights = self.loss_weights
        if terms.keys() != weights.keys():
            raise RuntimeError(
                f"{type(self).__name__} has terms {sorted(terms)} but weights {sorted(weights)}"
            )
        weighted = [weights[name] * term for name, term in terms.items() if weights[name] != 0]
        return torch.stack(weighted).sum(), terms

    @property
    def hparams(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        given = self.__dict__.get("_given", {})
        return {
            name: _plain(getattr(self, name, given.get(name, parameter.default)))
            for name, parameter in self.hparam_parameters().items()
        }

    @classmethod
    def hparam_parameters(cls) -> dict[str, inspect.Parameter]:
        """The arguments of the constructor after ``data``, with their defaults, by name.

        Where a constructor hands ``**kwargs`` on, those of the next class follow.
        """
        found: dict[str, inspect.Parameter] = {}
        for base in cls.__mro__:
            if "__init__" not in vars(base):
                continue
            signature = _signature(vars(base)["__init__"])
            parameters = list(signature.parameters.values())[2:]
            for parameter in parameters:
                if parameter.kind is not parameter.VAR_KEYWORD:
                    found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
        return found

    def clone_for(self: ModelT, data: HeteroData) -> ModelT:
        """An untrained model with the arguments of this one, on other data."""
        return type(self)(data, **self.hparams)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but prepared graphs, which forward makes again, and ``not_copied``."""
        return {**self.__dict__, "_graphs": {}, **dict.fromkeys(self.not_copied)}

    def save_pretrained(self, folder: str | Path, data: HeteroData | None = None) -> None:
        """Writes ``model-<hash>.safetensors`` and ``config.json`` (which names it, and the rest).

        The file of a model that was there goes last, so an interruption leaves it whole. Another
        process that saves to the folder is waited for.

        Args:
            folder: Where to save.
            data: The graph to recommend from. With it the folder holds all that
                :func:`~alignrec_pyg.load` needs on another machine: ids, known links, and the
                tables and item graphs that the model reads.

        Raises:
            CheckpointError: If the folder has a ``config.json`` that is damaged or somebody else's,
                or ``data`` has other ids, features or item graphs than the model was trained with.
            OSError: If the folder cannot be written; a model that was there stays whole.
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
            contents[_GRAPH], config["graph"] = graph_tensors(data, *self._read())
        with folder_lock(path.parent, path.name):
            write_with_files(path, config, contents)

    def _check_trained_on(self, data: HeteroData) -> None:
        """Makes sure that a model saved with ``data`` will load."""
        self.check_fits(data, "data")
        features, item_graphs = self._read()
        select_item_graphs(data, item_graphs, item_graphs)
        _check_hashes(type(self).__name__, self._data_hashes, _ids_hashes(data))
        found = data_fingerprints(data, features, item_graphs)
        check_fingerprints(type(self).__name__, self.fingerprints, found)

    def _read(self) -> tuple[list[str], list[str]]:
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
        """Makes sure that ``data`` has the users and items of this model, on its device.

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
        an item's values), which a warning tells. The model is in evaluation mode, on the device of
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
        """The shapes of a model's tensors, found without memory for them.

        ``None`` where the constructor computes with their values.
        """
        try:
            with torch.device("meta"):
                return _shapes(cls(*args, **kwargs))
        except (NotImplementedError, RuntimeError):
            return None

    def extra_repr(self) -> str:
        """Sizes and hyper-parameters, for ``print(model)``."""
        return f"num_users={self.num_users}, num_items={self.num_items}"

    def add_id_tables(self) -> None:
        """Adds the tables ``user_embedding`` and ``item_embedding``, ``embedding_dim`` wide."""
        self.user_embedding = nn.Embedding(self.num_users, self.embedding_dim)
        self.item_embedding = nn.Embedding(self.num_items, self.embedding_dim)

    @property
    def id_tables(self) -> tuple[Tensor, Tensor]:
        """The weights of ``user_embedding`` and ``item_embedding``."""
        return self.user_embedding.weight, self.item_embedding.weight

    def id_rows(self, nodes: Nodes | None) -> tuple[Tensor, Tensor]:
        """The rows of both tables that belong to ``nodes`` (``None``: the tables)."""
        if nodes is None:
            return self.id_tables
        return self.user_embedding(nodes.user), self.item_embedding(nodes.item)

    def item_ids(self, items: Tensor | None) -> Tensor:
        """The rows of the items' table (``None``: the table)."""
        return self.item_embedding.weight if items is None else self.item_embedding(items)

    def reset_id_tables(self) -> None:
        """Draws both tables anew (Xavier-uniform)."""
        for table in self.id_tables:
            nn.init.xavier_uniform_(table)

    def feature_tables(self, data: HeteroData) -> list[Tensor]:
        """The feature tables that the model reads, in the order of ``features``."""
        return [feature_table(data, name) for name in self.features]

    def user_item_graph(self, data: HeteroData) -> Adjacency:
        """The symmetrically normalised user-item graph, prepared for propagation and kept."""
        return self.link_graph(data, user_item_adjacency)

    def item_to_user_graph(self, data: HeteroData, normalization: str = "symmetric") -> Adjacency:
        """The normalised graph that averages over each user's items, prepared and kept."""
        return self.link_graph(data, item_to_user_adjacency, normalization)

    def item_to_user_aggregation(
        self, data: HeteroData, nodes: Nodes | None, normalization: str = "symmetric"
    ) -> ItemToUserAggregation:
        """:meth:`item_to_user_graph` for ``nodes``, and the items whose vectors it takes."""
        graph = self.item_to_user_graph(data, normalization)
        return ItemToUserAggregation.of_nodes(graph, nodes)

    def link_graph(
        self, data: HeteroData, build: Callable[..., PreparedT], *options: str
    ) -> PreparedT:
        """``build(edge_index, num_users, num_items, *options)`` of the known links, kept."""
        links, sizes = data[INTERACTS].edge_index, (self.num_users, self.num_items)
        name = " ".join([build.__name__, *options])
        return self.prepared_graph(name, (links,), lambda: build(links, *sizes, *options))

    def item_item_graph(self, data: HeteroData, name: str) -> Adjacency:
        """The kNN item graph ``name``, prepared for propagation and kept."""
        edges = data[knn_edge_type(name)]
        return self.prepared_graph(
            f"knn_{name}",
            (edges.edge_index, edges.edge_weight),
            lambda: Adjacency.from_edges(
                edges.edge_index, edges.edge_weight, self.num_items, self.num_items
            ),
        )

    def item_item_flow(
        self,
        data: HeteroData,
        name: str,
        num_layers: int,
        nodes: Nodes | None,
        items: Tensor | None = None,
    ) -> MessageFlow:
        """The kNN item graph ``name`` for the vectors of ``items`` (default: of ``nodes``)."""
        graph = self.item_item_graph(data, name)
        if nodes is None:
            return MessageFlow.build(graph, num_layers)
        items = nodes.item if items is None else items
        return MessageFlow.build(graph, num_layers, items, nodes.sampling)

    def prepared_graph(
        self, name: str, sources: tuple[Tensor, ...], build: Callable[[], PreparedT]
    ) -> PreparedT:
        """Keeps a graph prepared while it is asked for the very same, unchanged tensors.

        The graph is a constant, and several threads may ask for it. One of tensors that were made
        in ``inference_mode`` is not kept, since they do not tell whether they were changed.
        """
        tracked = not any(tensor.is_inference() for tensor in sources)
        versions = tuple(tensor._version for tensor in sources) if tracked else ()
        kept = self._graphs.get(name, ())
        for graph in kept:
            same = all(a is b for a, b in zip(graph.sources, sources, strict=True))
            if same and graph.versions == versions:
                return graph.prepared
        # A tensor made in inference mode could not be trained with later.
        with torch.inference_mode(False), torch.no_grad():
            prepared = build()
        if tracked:
            # A tuple of its own, as another thread may read the one that was there.
            new = _PreparedGraph(sources, versions, prepared)
            self._graphs[name] = (*kept, new)[-_NUM_PREPARED:]
        return prepared

    def select_item_graph(self, data: HeteroData, item_graph: str | None) -> str:
        """The kNN item graph to read: the one named, or the only one of ``data``."""
        name = select_item_graph(data, item_graph)
        self.fingerprints |= data_fingerprints(data, (), [name])
        return name

    def select_item_graphs(
        self, data: HeteroData, item_graphs: Sequence[str] | None, features: Sequence[str]
    ) -> list[str]:
        """The kNN item graphs to read, one for each feature set."""
        names = select_item_graphs(data, item_graphs, features)
        self.fingerprints |= data_fingerprints(data, (), names)
        return names


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # imported for type checkers only
        return inspect.signature(function)


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


def inner_products(
    user_x: Tensor, item_x: Tensor, items: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """See :meth:`Recommender.scorer`; the scores of a block take the place of the last one's."""
    dtype = torch.promote_types(user_x.dtype, item_x.dtype)  # they may differ under autocast
    user_x = user_x.to(dtype)
    item_xt = (item_x if items is None else item_x[items]).to(dtype).t().contiguous()
    # One buffer for all blocks: fresh memory takes up to half as long again, and the small results
    # that callers keep would settle in what was freed of it, so that the next block needs more.
    buffer = user_x.new_empty(0)

    def scores(users: Tensor) -> Tensor:
        out = buffer.resize_(users.numel(), item_xt.size(1))
        return torch.mm(user_x[users], item_xt, out=out)

    return scores


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


def _check_hparam(name: str, value: Any, kind: Any) -> None:
    """Checks a hyper-parameter by its annotated type, and by its name as all models use it."""
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
    elif kind is bool and not isinstance(value, bool | np.bool_):
        raise ValueError(f"'{name}' needs to be True or False (got {value!r})")
    elif kind is int:
        least = 0 if name.startswith("num_") or name.endswith("_dim") else -_MAX_INTEGER
        check_integer(name, value, least, _MAX_DIM if name.endswith("_dim") else None)
    elif kind is float:
        check_number(
            name,
            value,
            least=0 if name.endswith("_weight") else None,
            above=0 if name.endswith("temperature") else None,
        )


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, Python numbers for NumPy's."""
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value.item() if isinstance(value, np.generic) else value
