"""The command line ``alignrec``: from files to recommendations, thin over the package."""

from alignrec_pyg.cli.app import main
from alignrec_pyg.process import prepare_process

prepare_process()  # none of the imports above loads torch

__all__ = ["main"]
