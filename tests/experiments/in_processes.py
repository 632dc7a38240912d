"""What the tests of the runner have other processes do: they import no pytest for it."""

import os
import signal
import sys
import time
from pathlib import Path

from alignrec_pyg.models import BPR, LightGCN


class Killed(BPR):
    """Ends its process in the middle of training, as the system does where memory is short."""

    def on_epoch_start(self, data, generator):
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(BPR):
    """Has a mistake in its code."""

    def loss_terms(self, data, batch):
        raise KeyError("no such thing")


class Slow(LightGCN):
    """Takes its time for an epoch while there is a file, and notes its process in it."""

    def __init__(self, data, *, begun="", **hparams):
        super().__init__(data, **hparams)
        self.begun = begun

    def on_epoch_start(self, data, generator):
        if Path(self.begun).exists():
            with Path(self.begun).open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(0.5)


def compare_models(arguments, file):
    """Runs the comparison, and writes to a file what it prints."""
    with file.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from alignrec_pyg.cli import compare

    sys.exit(compare.main(arguments))
