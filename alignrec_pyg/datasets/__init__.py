"""Interactions and item content from files, from your own frames, or made up with a plan."""

from alignrec_pyg.datasets.base import InteractionDataset
from alignrec_pyg.datasets.frames import from_frames
from alignrec_pyg.datasets.mmrec import MMRecFolder
from alignrec_pyg.datasets.movielens import MovieLens
from alignrec_pyg.datasets.synthetic import Synthetic

__all__ = ["InteractionDataset", "MMRecFolder", "MovieLens", "Synthetic", "from_frames"]
