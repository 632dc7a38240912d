"""Encoders: raw texts and images of items to feature rows."""

from alignrec_pyg.encoders.base import FittedItemEncoder, ItemContent, ItemEncoder
from alignrec_pyg.encoders.beit3 import BEiT3Encoder
from alignrec_pyg.encoders.beit3_model import BEiT3Config, BEiT3Model
from alignrec_pyg.encoders.cache_keys import state_hash, weights_hash
from alignrec_pyg.encoders.clip import CLIPEncoder
from alignrec_pyg.encoders.imagenet import ImageNetEncoder
from alignrec_pyg.encoders.images import (
    ImageError,
    ImageSource,
    images_by_id,
    read_image,
    resize_square,
)
from alignrec_pyg.encoders.patch_pca import PatchPCAEncoder
from alignrec_pyg.encoders.precomputed import Precomputed
from alignrec_pyg.encoders.scikit import SklearnEncoder, TfidfEncoder
from alignrec_pyg.encoders.sentence_transformer import SentenceTransformerEncoder
from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer
from alignrec_pyg.encoders.texts import CleanText, clean_text, item_text

__all__ = [
    "BEiT3Config",
    "BEiT3Encoder",
    "BEiT3Model",
    "CLIPEncoder",
    "CleanText",
    "FittedItemEncoder",
    "ImageError",
    "ImageNetEncoder",
    "ImageSource",
    "ItemContent",
    "ItemEncoder",
    "PatchPCAEncoder",
    "Precomputed",
    "SentencePieceTokenizer",
    "SentenceTransformerEncoder",
    "SklearnEncoder",
    "TfidfEncoder",
    "clean_text",
    "images_by_id",
    "item_text",
    "read_image",
    "resize_square",
    "state_hash",
    "weights_hash",
]
