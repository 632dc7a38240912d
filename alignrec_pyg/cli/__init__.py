"""The command line ``alignrec``: from files to recommendations, thin over the package."""

from alignrec_pyg.cli.app import main

__all__ = ["main"]
