"""A web page that demonstrates a trained model: recommendations, explanations and new items."""

from alignrec_pyg.process import prepare_process

prepare_process()  # the imports below load torch

from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.demo.page import Page, page
from alignrec_pyg.demo.page_data import (
    About,
    CannotShowError,
    ItemRank,
    NewItemView,
    Recommendation,
    SimilarItem,
    UserView,
)
from alignrec_pyg.demo.showcase import Showcase

__all__ = [
    "About",
    "CannotShowError",
    "ItemRank",
    "NewItemView",
    "Page",
    "Recommendation",
    "Showcase",
    "ShownItem",
    "SimilarItem",
    "UserView",
    "page",
]
