"""Encoders: raw texts and images of items to feature rows."""

from alignrec_pyg.encoders.base import FittedItemEncoder, ItemContent, ItemEncoder
from alignrec_pyg.encoders.clip import CLIPEncoder
from alignrec_pyg.encoders.images import ImageError, ImageSource, read_image, resize_square
from alignrec_pyg.encoders.precomputed import Precomputed
from alignrec_pyg.encoders.scikit import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.encoders.sentence_transformer import SentenceTransformerEncoder
from alignrec_pyg.encoders.texts import clean_text, item_text

__all__ = [
    "CLIPEncoder",
    "FittedItemEncoder",
    "ImageError",
    "ImageSource",
    "ItemContent",
    "ItemEncoder",
    "PatchPCAEncoder",
    "Precomputed",
    "SentenceTransformerEncoder",
    "TfidfEncoder",
    "clean_text",
    "item_text",
    "read_image",
    "resize_square",
]
