"""The contract all models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
)

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer
from alignrec_pyg.fingerprint import data_fingerprints
from alignrec_pyg.graph import (
    INTERACTS,
    InteractionBatch,
    Nodes,
    feature_table,
    knn_edge_type,
    num_positive_links,
)
from alignrec_pyg.models.hparams import MAX_DIM
from alignrec_pyg.models.inputs import (
    PAPER_DATA_SETS,
    ModelInputs,
    require_features,
    select_features,
    select_item_graph,
    select_item_graphs,
    trains_features,
)
from alignrec_pyg.models.saving import SavedModel
from alignrec_pyg.nn import (
    Adjacency,
    FeatureProjections,
    ItemToUserAggregation,
    MessageFlow,
    item_to_user_adjacency,
    user_item_adjacency,
)
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig

ModelT = TypeVar("ModelT", bound="Recommender")
PreparedT = TypeVar("PreparedT")


# Training, validation and test graph may hold equal links in tensors of their own.
_NUM_PREPARED = 3


class _PreparedGraph(NamedTuple):
    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]
    prepared: Any


class Recommender(SavedModel, ABC):
    """A model that embeds users and items; the score of a pair is the inner product of its vectors.

    A model that scores otherwise overrides :meth:`scorer`.

    ``Model(train_data, **hyper_parameters)`` builds any model. ``data`` gives the sizes and the
    feature tables and is not kept. Every hyper-parameter is a keyword argument with a default,
    stored as an attribute of the same name (so that ``hparams`` can list them).

    Args:
        data: Training graph (see :mod:`alignrec_pyg.graph`).
        embedding_dim: Width :math:`d` of the ID tables (``None``: the model has none).
        hparams: Arguments to store as attributes: ``locals()``, in the first line of a subclass's
            constructor. ``features``, ``item_graph`` and ``item_graphs`` become the names selected.
            A subclass may also store its arguments itself.

    Raises:
        ValueError: If ``embedding_dim`` is not in [1, 65536], ``data`` has no users or items, or
            one of ``hparams`` is not of its annotated type: numbers need to be finite,
            ``..._weight`` not negative, ``...temperature`` positive, ``dropout`` in [0, 1),
            ``num_...`` and ``..._dim`` not negative.
    """

    inputs: ClassVar[ModelInputs] = ModelInputs()
    """What the model reads of the data, beside the links."""
    supports_new_items: bool = False
    """Whether content alone gives an item a vector, without an ID vector and without links."""
    supports_neighbor_sampling: bool = False
    """Whether training may draw neighbourhoods (``TrainConfig.fan_out``)."""
    not_copied: ClassVar[tuple[str, ...]] = ()
    """Attributes that are ``None`` in copies, such as graphs, which torch cannot copy."""

    def __init__(
        self,
        data: HeteroData,
        *,
        embedding_dim: int | None = None,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data)
        if embedding_dim is not None:
            self.embedding_dim = check_integer("embedding_dim", embedding_dim, 1, MAX_DIM)
        self._graphs: dict[str, tuple[_PreparedGraph, ...]] = {}
        self._batch_seed: int | None = None
        if hparams is not None:
            self._store_hparams(data, hparams)

    def _store_hparams(self, data: HeteroData, hparams: Mapping[str, Any]) -> None:
        self.set_hparams(hparams)
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
        """The default way to train the model on ``data``.

        Fields that are ``None``, here all of them, follow from the number of links, see
        :meth:`alignrec_pyg.TrainConfig.for_links`.
        """
        return TrainConfig()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """How the paper, or the code behind its figures, trains the model.

        Here the settings of the toolbox that most published figures come from: a learning rate of
        1e-3, batches of 2,048, an evaluation after every epoch and a patience of 20.
        """
        return TrainConfig(lr=1e-3, batch_size=2048, eval_every=1, patience=20, min_steps=0)

    @classmethod
    def complete_config(
        cls, data: HeteroData, config: TrainConfig | None = None
    ) -> CompleteTrainConfig:
        """``config`` (default: :meth:`train_config`), with values for all that is ``None``."""
        usual = cls.train_config(data)
        return (config or usual).completed(usual, num_positive_links(data))

    @classmethod
    def default_hparams(cls, data: HeteroData) -> dict[str, Any]:
        """Hyper-parameters whose default follows from ``data``: those that are ``None``, here none.

        The constructor and the commands take them.
        """
        return {}

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
        """Called before each batch with a generator seeded by the batch, whose seed it keeps."""
        self._batch_seed = generator.initial_seed()

    def batch_generator(self, device: torch.device) -> torch.Generator | None:
        """A generator for the batch, which gives the same draws each time it is requested.

        Before the first batch there is none, and torch's global generator is used instead.
        """
        if self._batch_seed is None:
            return None
        return torch.Generator(device).manual_seed(self._batch_seed)

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

    def __getstate__(self) -> dict[str, Any]:
        """Everything but prepared graphs, which forward makes again, and ``not_copied``."""
        return {**self.__dict__, "_graphs": {}, **dict.fromkeys(self.not_copied)}

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

    def feature_projections(self, data: HeteroData) -> FeatureProjections:
        """These tables, trained unless ``freeze_features`` says otherwise, each projected."""
        trainable = trains_features(self.freeze_features, self.num_items)
        tables = self.feature_tables(data)
        return FeatureProjections(tables, self.embedding_dim, trainable=trainable)

    def user_item_graph(self, data: HeteroData) -> Adjacency:
        """The symmetrically normalised user-item graph, prepared for propagation and cached."""
        return self.link_graph(data, user_item_adjacency)

    def item_to_user_graph(self, data: HeteroData, normalization: str = "symmetric") -> Adjacency:
        """The normalised graph that averages over each user's items, prepared and cached."""
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
        """``build(edge_index, num_users, num_items, *options)`` of the known links, cached."""
        links, sizes = data[INTERACTS].edge_index, (self.num_users, self.num_items)
        name = " ".join([build.__name__, *options])
        return self.prepared_graph(name, (links,), lambda: build(links, *sizes, *options))

    def item_item_graph(self, data: HeteroData, name: str) -> Adjacency:
        """The kNN item graph ``name``, prepared for propagation and cached."""
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
        """Caches a prepared graph for as long as it is requested for the same, unchanged tensors.

        The graph is a constant, and several threads may request it. A graph of tensors that were
        made in ``inference_mode`` is not cached, since these do not record changes.
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


def inner_products(
    user_x: Tensor, item_x: Tensor, items: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """See :meth:`Recommender.scorer`; the scores of a block overwrite those of the last one."""
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
