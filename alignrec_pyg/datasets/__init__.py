"""Datasets: interactions and item content from files and data frames, and synthetic data."""

from alignrec_pyg.datasets.amazon import AmazonReviews
from alignrec_pyg.datasets.export import to_mmrec, to_recbole
from alignrec_pyg.datasets.files import from_files
from alignrec_pyg.datasets.frames import from_frames
from alignrec_pyg.datasets.image_cache import FetchReport, fetch_images
from alignrec_pyg.datasets.interactions import InteractionDataset
from alignrec_pyg.datasets.lightgcn import LightGCNFolder
from alignrec_pyg.datasets.microlens import MicroLens
from alignrec_pyg.datasets.mmrec import MMRecFolder
from alignrec_pyg.datasets.movielens import MovieLens
from alignrec_pyg.datasets.recbole import RecBoleFolder
from alignrec_pyg.datasets.recognition import CheckResult, check, from_path
from alignrec_pyg.datasets.sparse import from_scipy
from alignrec_pyg.datasets.synthetic import Synthetic
from alignrec_pyg.datasets.transfer import download

__all__ = [
    "AmazonReviews",
    "CheckResult",
    "FetchReport",
    "InteractionDataset",
    "LightGCNFolder",
    "MMRecFolder",
    "MicroLens",
    "MovieLens",
    "RecBoleFolder",
    "Synthetic",
    "check",
    "download",
    "fetch_images",
    "from_files",
    "from_frames",
    "from_path",
    "from_scipy",
    "to_mmrec",
    "to_recbole",
]
