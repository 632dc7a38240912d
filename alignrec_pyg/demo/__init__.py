"""A page that shows a trained model: recommendations with their reasons, and items it never saw."""

from alignrec_pyg.demo.page import Page, page
from alignrec_pyg.demo.showcase import Showcase
from alignrec_pyg.demo.views import CannotShowError

__all__ = ["CannotShowError", "Page", "Showcase", "page"]
