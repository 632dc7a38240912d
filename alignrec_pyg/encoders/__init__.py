"""Encoders: raw texts and images of items to feature rows."""

from alignrec_pyg.encoders.base import FittedItemEncoder, ItemContent, ItemEncoder
from alignrec_pyg.encoders.beit3 import BEiT3Encoder
from alignrec_pyg.encoders.beit3_model import BEiT3Config, BEiT3Model
from alignrec_pyg.encoders.scikit import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = [
    "BEiT3Config",
    "BEiT3Encoder",
    "BEiT3Model",
    "FittedItemEncoder",
    "ItemContent",
    "ItemEncoder",
    "PatchPCAEncoder",
    "SentencePieceTokenizer",
    "TfidfEncoder",
]
