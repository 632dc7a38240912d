"""``alignrec pretrain``: stage 1."""

from __future__ import annotations

import typer


def pretrain(context: typer.Context) -> None:
    """Pre-train a BEiT3 encoder on the items' images and texts (stage 1)."""
    from alignrec_pyg.pretraining import __main__

    __main__.main(context.args, prog="alignrec pretrain")
