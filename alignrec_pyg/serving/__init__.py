"""Serving of trained models: new items and users, similar items, explanations, exports, sharing."""

from alignrec_pyg.serving.faiss_index import ItemIndex, index_recall
from alignrec_pyg.serving.hub import from_hub, push_to_hub
from alignrec_pyg.serving.new_data import grow, refit
from alignrec_pyg.serving.new_items import add_items, new_items
from alignrec_pyg.serving.new_users import fold_in_users
from alignrec_pyg.serving.ranked_items import RankedItems
from alignrec_pyg.serving.server import Server, recommend

__all__ = [
    "ItemIndex",
    "RankedItems",
    "Server",
    "add_items",
    "fold_in_users",
    "from_hub",
    "grow",
    "index_recall",
    "new_items",
    "push_to_hub",
    "recommend",
    "refit",
]
