"""Trains and compares models on one data set: the same as ``alignrec compare``.

python benchmarks/compare.py
python benchmarks/compare.py --data FOLDER --models BPR LightGCN --seeds 3
"""

import sys

from alignrec_pyg.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
