import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignrec_pyg.process import prepare_process

ROOT = Path(__file__).parents[1]
SETTINGS = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """What a test prepares is put back."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for name in SETTINGS:
        monkeypatch.setenv(name, "before")


@pytest.mark.parametrize("name", SETTINGS)
def test_variables_are_set_unless_somebody_says_otherwise(monkeypatch, name):
    prepare_process()
    assert os.environ[name] == "before"
    monkeypatch.delenv(name)
    prepare_process()
    assert os.environ[name] == SETTINGS[name]


def test_once_is_enough():
    prepare_process()
    finders = [*sys.meta_path]
    prepare_process()
    assert sys.meta_path == finders


def printed(script, packages):
    """What a new process prints that has these stand-ins of packages."""
    for name, source in packages.items():
        name.mkdir()
        (name / "__init__.py").write_text(source)
    path = [str(folder.parent) for folder in packages] + [str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    for name in SETTINGS:
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "script",
    ["import alignrec_pyg.demo", "from alignrec_pyg.cli import main; main(['evaluate', '.'])"],
)
def test_commands_and_demo_prepare_their_process_before_torch_is_imported(script, tmp_path):
    torch = f"import os; print(*(os.environ[name] for name in {[*SETTINGS]})); raise SystemExit"
    assert printed(script, {tmp_path / "torch": torch}) == "1 PASSIVE\n"


def test_pyg_is_imported_without_transformers_which_are_there_afterwards(tmp_path):
    pyg = """
try:
    import transformers
except ImportError as error:
    missing = error.name
__version__ = "2"
"""
    script = """
import alignrec_pyg.cli
import torch_geometric, transformers
print(torch_geometric.missing, transformers.__file__)
"""
    transformers = tmp_path / "transformers"
    told = printed(script, {tmp_path / "torch_geometric": pyg, transformers: ""})
    assert told == f"transformers {transformers / '__init__.py'}\n"


def test_pyg_says_its_version_after_its_imports():
    """By this the finder knows whether PyG is being imported."""
    source = Path(find_spec("torch_geometric").origin).read_text(encoding="utf-8")
    assert source.index("\n__version__ =") > source.rindex("\nimport torch_geometric")
