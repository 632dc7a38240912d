"""Sweeps over the settings of a model, on Ray Tune."""

__all__: list[str] = []
