"""Names that are imported when they are first used."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import alignrec_pyg
from alignrec_pyg import models

ROOT = Path(__file__).parents[1]


def fresh_python(script: str) -> str:
    """What ``script`` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", [alignrec_pyg, models], ids=lambda package: package.__name__)
def test_every_listed_name_exists(package):
    found = {name: getattr(package, name) for name in package.__all__}
    assert set(dir(package)) >= set(found)
    namespace = {}
    exec(f"from {package.__name__} import *", namespace)
    assert namespace.keys() >= found.keys()
    with pytest.raises(AttributeError, match="fitt"):
        package.fitt  # noqa: B018


def test_names_cost_no_torch_before_they_are_used():
    printed = fresh_python(
        "import sys, alignrec_pyg, alignrec_pyg.models\n"
        "print(alignrec_pyg.__version__, *alignrec_pyg.models.model_names())\n"
        "print(*{'numpy', 'pandas', 'torch', 'torch_geometric'} & set(sys.modules))\n"
    )
    names, heavy = printed.split("\n")[:2]
    assert names == " ".join([alignrec_pyg.__version__, *models.model_names()])
    assert heavy == ""


def test_named_models_are_built_from_data_alone():
    def built_from_data_alone(name):
        cls = getattr(models, name)
        parameters = list(inspect.signature(cls).parameters.values())
        required = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]
        is_model = issubclass(cls, models.Recommender) and not inspect.isabstract(cls)
        return is_model and required == ["data"]

    assert models.model_names() == tuple(n for n in models.__all__ if built_from_data_alone(n))
