"""Serving of trained models: new items and users, similar items, explanations, exports, sharing."""

from alignrec_pyg.serving.export_parquet import export_recommendations
from alignrec_pyg.serving.faiss_index import ItemIndex, index_recall
from alignrec_pyg.serving.hub import from_hub, push_to_hub
from alignrec_pyg.serving.new_data import grow, refit
from alignrec_pyg.serving.new_items import add_items, new_items
from alignrec_pyg.serving.new_users import fold_in_users, recommend_new_users
from alignrec_pyg.serving.onnx_scorer import export_onnx
from alignrec_pyg.serving.similar import SimilarItems, explain, similar_items

__all__ = [
    "ItemIndex",
    "SimilarItems",
    "add_items",
    "explain",
    "export_onnx",
    "export_recommendations",
    "fold_in_users",
    "from_hub",
    "grow",
    "index_recall",
    "new_items",
    "push_to_hub",
    "recommend_new_users",
    "refit",
    "similar_items",
]
