"""Table 3 of the paper, features evaluated without training: the same as ``alignrec features``.

python benchmarks/features.py
python benchmarks/features.py --data FOLDER --tables clip=clip.npy --sets clip image+text
"""

import sys

from alignrec_pyg.cli.features import main

if __name__ == "__main__":
    sys.exit(main())
