"""``alignrec pretrain`` as a module, for ``torchrun -m alignrec_pyg.pretraining``."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs ``alignrec pretrain`` with the arguments of the process, and returns its exit code."""
    from alignrec_pyg.cli import main as alignrec

    return alignrec(["pretrain", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
