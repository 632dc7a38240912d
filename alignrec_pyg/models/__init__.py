"""Recommendation models, one file per paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_NEED_MORE_THAN_DATA = {"Aligned", "ContentRecommender", "Recommender", "Representations"}


def model_names() -> tuple[str, ...]:
    """Names of the models that are built from data and keyword arguments alone.

    Command lines offer these; asking for them imports no torch.
    """
    return tuple(name for name in __all__ if name not in _NEED_MORE_THAN_DATA)
