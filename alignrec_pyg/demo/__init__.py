"""A page that shows a trained model: recommendations with their reasons, and items it never saw."""

from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.demo.page import Page, page
from alignrec_pyg.demo.showcase import Showcase
from alignrec_pyg.demo.views import (
    About,
    CannotShowError,
    Like,
    NewItemView,
    Place,
    Recommendation,
    UserView,
)

__all__ = [
    "About",
    "CannotShowError",
    "Like",
    "NewItemView",
    "Page",
    "Place",
    "Recommendation",
    "Showcase",
    "ShownItem",
    "UserView",
    "page",
]
