"""Encoders: raw texts and images of items to feature rows."""

from alignrec_pyg.encoders.base import FittedItemEncoder, ItemContent, ItemEncoder
from alignrec_pyg.encoders.scikit import PatchPCAEncoder, TfidfEncoder

__all__ = ["FittedItemEncoder", "ItemContent", "ItemEncoder", "PatchPCAEncoder", "TfidfEncoder"]
