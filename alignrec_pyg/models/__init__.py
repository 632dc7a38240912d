"""Recommendation models, one file per paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_NOT_BUILT_FROM_DATA = {
    "Aligned",
    "ClosedFormRecommender",
    "ContentRecommender",
    "ModelInputs",
    "Recommender",
    "Representations",
}


def model_names() -> tuple[str, ...]:
    """Names of the models that are built from data and keyword arguments alone.

    The command line offers these; the function does not import torch.
    """
    return tuple(name for name in __all__ if name not in _NOT_BUILT_FROM_DATA)
