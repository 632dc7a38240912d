"""The command line ``alignrec``: from files to recommendations, thin over :mod:`alignrec_pyg`.

It is a package of its own beside ``alignrec_pyg``, whose import takes seconds (torch and PyG): a
command imports it when it runs, so ``--help`` and mistakes in arguments are told at once.
"""

from alignrec_cli.app import main

__all__ = ["main"]
