"""Searches the settings of a model with Ray Tune: the same as ``alignrec tune``.

python tuning/search.py
python tuning/search.py --model FREEDOM --data FOLDER --num-samples 30 --time-budget 2h
"""

import sys

from alignrec_pyg.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
