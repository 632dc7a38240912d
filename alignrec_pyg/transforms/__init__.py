"""Transforms of the interaction graph: filters, splits, item features and item graphs."""

from alignrec_pyg.transforms.concat_features import ConcatFeatures
from alignrec_pyg.transforms.encode_items import EncodeItems
from alignrec_pyg.transforms.encoding_cache import UnusedRows, remove_rows, unused_rows
from alignrec_pyg.transforms.encoding_report import ContentFailure, EncodingReport
from alignrec_pyg.transforms.filters import KCore, MinRating
from alignrec_pyg.transforms.hold_out_items import HoldOutItems
from alignrec_pyg.transforms.item_graph_from_neighbors import ItemGraphFromNeighbors, NeighborLists
from alignrec_pyg.transforms.knn_item_graph import KNNItemGraph
from alignrec_pyg.transforms.ray_actors import RayActors
from alignrec_pyg.transforms.split_interactions import SplitInteractions

__all__ = [
    "ConcatFeatures",
    "ContentFailure",
    "EncodeItems",
    "EncodingReport",
    "HoldOutItems",
    "ItemGraphFromNeighbors",
    "KCore",
    "KNNItemGraph",
    "MinRating",
    "NeighborLists",
    "RayActors",
    "SplitInteractions",
    "UnusedRows",
    "remove_rows",
    "unused_rows",
]
