"""Experiments: models on one data set, compared."""

__all__: list[str] = []
