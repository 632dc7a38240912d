import ast
import sys
import textwrap

import pytest
import torch
import torch_geometric

from alignrec_pyg.experiments import provenance
from alignrec_pyg.experiments.cells import Cell, model_code
from alignrec_pyg.models import BPR, GRCN, LightGCN
from alignrec_pyg.train_config import TrainConfig


@pytest.fixture
def edited(monkeypatch):
    """What a file of the package would give if it were edited."""

    def edit(module, change):
        file = provenance._file_of(module)
        original = provenance.Path.read_text
        read = provenance._read_source

        def read_text(path, *arguments, **options):
            text = original(path, *arguments, **options)
            return change(text) if str(path) == file else text

        monkeypatch.setattr(provenance.Path, "read_text", read_text)
        monkeypatch.setattr(  # the other files have been read already
            provenance,
            "_read_source",
            lambda path, name: (read.__wrapped__ if path == file else read)(path, name),
        )

    return edit


def code_of(model):
    return Cell(row="", model=model, hparams={}, config=TrainConfig()).code()


def more_code(text):
    return text + "\nADDED = 1\n"


@pytest.mark.parametrize(
    "module",
    [
        "alignrec_pyg.demo.page",
        "alignrec_pyg.datasets.mmrec",
        "alignrec_pyg.transforms.encode_items",
        "alignrec_pyg.experiments.charts",
        "alignrec_pyg.experiments.runner",
        "alignrec_pyg.cli.app",
        "alignrec_pyg.models.grcn",
        "alignrec_pyg.models.freedom",
    ],
)
def test_an_edit_of_what_a_cell_does_not_run_changes_no_key(module, edited):
    before = code_of(BPR)
    __import__(module)
    edited(module, more_code)
    assert code_of(BPR) == before


@pytest.mark.parametrize(
    "module",
    [
        "alignrec_pyg.models.bpr",
        "alignrec_pyg.models.base",
        "alignrec_pyg.nn.losses",
        "alignrec_pyg.training.loop",
        "alignrec_pyg.training.run",
        "alignrec_pyg.training.sampling",
        "alignrec_pyg.evaluation.ranking",
        "alignrec_pyg.evaluation.metrics",
        "alignrec_pyg.experiments.cells",
        "alignrec_pyg.graph",
    ],
)
def test_an_edit_of_what_a_cell_runs_changes_its_key(module, edited):
    before = code_of(BPR)
    edited(module, more_code)
    assert code_of(BPR) != before


def test_an_edit_of_one_model_leaves_the_others(edited):
    before = {model: code_of(model) for model in (LightGCN, GRCN)}
    edited("alignrec_pyg.models.grcn", more_code)
    assert code_of(LightGCN) == before[LightGCN]
    assert code_of(GRCN) != before[GRCN]


def test_comments_and_docstrings_are_no_code(edited):
    before = code_of(BPR)
    edited(
        "alignrec_pyg.models.bpr",
        lambda text: "# a comment\n" + text.replace('r"""', 'r"""Another sentence. ', 1),
    )
    assert code_of(BPR) == before


def test_a_version_of_python_with_more_fields_of_the_tree_changes_no_hash(monkeypatch):
    tree = ast.parse("def f(x=0): return x")
    before = provenance._dump(tree)
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*ast.FunctionDef._fields, "newer"))
    monkeypatch.setattr(tree.body[0], "newer", [], raising=False)
    assert provenance._dump(tree) == before
    for other in ("def f(x=None): return x", "def f(x=False): return x", "def f(x=''): return x"):
        assert provenance._dump(ast.parse(other)) != before


def test_versions_of_the_libraries_count_for_keys_and_not_for_the_code(monkeypatch):
    before, code = code_of(BPR), model_code(BPR)
    for library in (torch, torch_geometric):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "0.0")
            assert code_of(BPR) != before
            assert model_code(BPR) == code


def test_a_users_module_and_what_it_imports_beside_it_count(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(
        textwrap.dedent("""
            import json
            from alignrec_pyg.models import BPR
            from own_equation import scale

            class Own(BPR):
                factor = scale(2)
        """)
    )
    equation = tmp_path / "own_equation.py"
    equation.write_text("def scale(x):\n    return x\n")
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_model

    def code():
        provenance._read_source.cache_clear()
        return code_of(own_model.Own)

    before = code()
    (tmp_path / "unrelated.py").write_text("x = 2\n")
    equation.write_text("# said better\ndef scale(x):\n    return x\n")
    assert code() == before
    equation.write_text("def scale(x):\n    return 2 * x\n")
    assert code() != before
    for name in ("own_model", "own_equation"):
        sys.modules.pop(name)
    provenance._file_of.cache_clear()


def test_commit_needs_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_HERE", tmp_path)
    assert provenance.commit() is None


def test_hardware_and_versions_are_told():
    assert "threads" in provenance.hardware(torch.device("cpu"))
    assert set(provenance.versions()) >= {"python", "torch", "torch_geometric", "alignrec_pyg"}
