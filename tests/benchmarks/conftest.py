"""A way to run a script."""

from __future__ import annotations

import contextlib
import importlib
import io

import pytest

_QUICK = ("--epochs", "2", "--batch-size", "64", "--threads", "1", "--device", "cpu")
# in this very process, where tests put other functions in the place of ours
_HERE = ("--jobs", "1")


@pytest.fixture(autouse=True)
def _plain_runs(plain_runs):
    """Warm-up, estimate and the charts of tables have tests of their own."""


@pytest.fixture(scope="session")
def run_script(tmp_path_factory):
    """Runs a script for two epochs, unless told otherwise; gives status, output and errors."""
    elsewhere = tmp_path_factory.mktemp("out")

    def run(script, *arguments):
        module = importlib.import_module(f"benchmarks.{script}")
        arguments = (*_QUICK, *_HERE, "--out", elsewhere, *arguments)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.main([str(argument) for argument in arguments])
        return status, out.getvalue(), err.getvalue()

    return run
