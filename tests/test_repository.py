"""Rules about the repository as a whole."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignrec_pyg
from alignrec_pyg import models

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alignrec_pyg"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODELS = [*models.model_names(), "Aligned"]

# put together here, so that this file does not hold what it looks for
HOSTS = re.compile(
    "|".join([r"py" + r"pi\.org", r"python" + r"hosted", r"npm" + r"js\.", r"/sim" + "ple/"])
)
MACHINE_PATHS = re.compile(
    r"(?<![\w.:/-])/(?:ro" + "ot|ho" + "me|wo" + "rk|Us" + r"ers|m" + r"nt)/\w"
)
FORBIDDEN = {"a registry host": HOSTS, "a path of one machine": MACHINE_PATHS}
SKIPPED_FOLDERS = re.compile(
    r"\.git|\.venv.*|\..*_cache|\.hypothesis|__pycache__|results|dist|build|_build"
)


def tree() -> Iterator[Path]:
    """Text files of the working tree that git would track."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not SKIPPED_FOLDERS.fullmatch(name)]
        for file in files:
            if file not in {".git", "uv.lock"} and Path(file).suffix not in {
                ".png",
                ".npy",
                ".npz",
                ".pyc",
            }:
                yield Path(folder, file)


def findings(text: str) -> list[str]:
    """What of the forbidden is in ``text``."""
    return [what for what, pattern in FORBIDDEN.items() if pattern.search(text)]


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__.py"], ids=str)
def test_every_module_has_its_test_file(module: Path) -> None:
    mirrored = ROOT / "tests" / module.parent / f"test_{module.name}"
    assert mirrored.is_file()
    assert "def test_" in mirrored.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_cites_its_source(name: str) -> None:
    cls = getattr(models, name)
    assert issubclass(cls, models.Recommender)
    assert re.search(r"<https?://[^>\s]+>`", inspect.getdoc(cls) or "")
    assert cls.__doc__ != models.Recommender.__doc__
    assert getattr(alignrec_pyg, name) is cls


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_in_a_file_of_its_name(name: str) -> None:
    assert getattr(models, name).__module__ == f"alignrec_pyg.models.{name.lower()}"
    assert (ROOT / "tests" / "models" / f"test_{name.lower()}.py").is_file()


@pytest.mark.parametrize("module", [m for m in MODULES if m.name == "__init__.py"], ids=str)
def test_every_package_has_the_names_that_it_lists(module: Path) -> None:
    package = importlib.import_module(".".join(("alignrec_pyg", *module.parent.parts)))
    assert package.__doc__
    assert len(package.__all__) == len(set(package.__all__))
    for name in package.__all__:
        assert hasattr(package, name), name


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """Packages that a module imports when it is imported itself."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield str(child.module).split(".")[0]
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from (name for part in child.orelse for name in imported_at_once(part))
        elif not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from imported_at_once(child)


def test_optional_packages_are_imported_within_functions() -> None:
    optional = {
        *("fairscale", "faiss", "gradio", "huggingface_hub", "matplotlib", "onnx", "onnxruntime"),
        *("open_clip", "optuna", "ray", "sentence_transformers", "sentencepiece", "tensorboard"),
        *("timm", "torch_cluster", "torch_sparse", "torchscale", "torchvision", "transformers"),
    }
    found = {
        str(module): names
        for module in MODULES
        if (names := optional & set(imported_at_once(ast.parse((PACKAGE / module).read_bytes()))))
    }
    assert found == {}
    example = "import a.b\nif TYPE_CHECKING:\n    import c\ntry:\n    from d import e\nfinally: ..."
    example += "\ndef f():\n    import g\nclass H:\n    import i\nfrom . import j\n"
    assert set(imported_at_once(ast.parse(example))) == {"a", "d", "i"}


def test_no_host_and_no_machine_path() -> None:
    found = {}
    for path in tree():
        if what := findings(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = what
    assert found == {}


def test_the_search_for_hosts_and_paths_finds_them() -> None:
    assert findings("https://files.python" + "hosted.org/x") == ["a registry host"]
    assert findings('open("/ro' + 'ot/x")') == ["a path of one machine"]
    assert findings("cd /wo" + "rk/x") == ["a path of one machine"]
    assert findings("https://arxiv.org/ho" + "me/x, results/wo" + "rk/x") == []


DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "tuning")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_commands_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    scripts = re.findall(r"(?:uv run|python|bash) ([\w./]+/[\w./]+)", text)
    modules = [
        name.replace(".", "/")
        for name in re.findall(r"python -m ([\w.]+)", text)
        if name not in sys.stdlib_module_names
    ]
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    missing = [name for name in scripts if not (ROOT / name).exists()]
    missing += [
        name
        for name in modules
        if not any((ROOT / name).with_suffix(end).exists() for end in ("", ".py"))
    ]
    missing += [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"$', metadata, flags=re.MULTILINE)
    assert version is not None
    assert version.group(1) == alignrec_pyg.__version__
    assert f"## [{version.group(1)}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version.group(1)}\n" in citation


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
