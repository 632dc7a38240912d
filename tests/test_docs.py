"""The code blocks of the pages run, and the pages say all they are to say."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import distributed
from torch_geometric.data import HeteroData

from alignrec_pyg import AlignRec, LightGCN, TrainConfig, evaluate
from alignrec_pyg.cli import main
from alignrec_pyg.datasets import Synthetic, to_mmrec
from alignrec_pyg.demo import Showcase
from alignrec_pyg.encoders import CLIPEncoder, ItemContent, PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.storage import write_tensors
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KNNItemGraph, SplitInteractions
from docs.model_pages import NAMES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "benchmarks/README.md", "tuning/README.md")),
    *PAGES,
]
PACKAGES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in sorted((ROOT / "alignrec_pyg").rglob("__init__.py"))
    # commands are in command_line.md, files are ours, and of what scripts share, the main names
    # are documented
    if path.parent.name not in {"cli", "experiments", "storage", "tuning"}
]


def blocks(page: str, info: str) -> list[str]:
    """The code blocks of a page whose fence opens with ``info``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{info}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(page: str, info: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Runs the one block of a page whose fence opens with ``info``; gives its names."""
    (block,) = blocks(page, info)
    exec(compile(block, page, "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def encoders() -> tuple[TfidfEncoder, PatchPCAEncoder]:
    return TfidfEncoder(16), PatchPCAEncoder(16)


@pytest.fixture(scope="module")
def encoded(encoders: tuple[TfidfEncoder, PatchPCAEncoder]) -> HeteroData:
    """Made-up data with feature tables and an item graph, as the pages' examples have before."""
    data = Synthetic(200, 150, 4000, num_topics=8, image_size=16).data
    for name, encoder in zip(("text", "image"), encoders, strict=True):
        data = EncodeItems(encoder, name=name)(data)
    return KNNItemGraph("mm", k=10)(ConcatFeatures(["image", "text"], name="mm")(data))


@pytest.fixture
def parts(encoded: HeteroData) -> dict[str, Any]:
    train, val, test = SplitInteractions("random", seed=0)(encoded)
    return {"data": encoded, "train": train, "val": val, "test": test}


def code_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_quick_start_explains_the_example_of_the_readme() -> None:
    """Which test_readme.py runs."""
    pieces = "\n".join(blocks("docs/quickstart.md", "python"))
    assert code_lines(pieces) == code_lines(blocks("README.md", "python")[0])


def test_the_quick_start_moves_to_a_gpu_and_leaves_the_graphs(toy: HeteroData) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (block,) = blocks("docs/quickstart.md", "python gpu")
    scope = {"data": toy, "train": toy, "val": toy, "test": toy, "model": LightGCN(toy)}
    exec(block.replace('"cuda"', repr(device)), scope)
    assert scope["test"] is not toy
    assert evaluate(scope["model"], scope["test"], ks=2)["recall@2"] >= 0


def test_the_method_has_every_equation_of_the_paper() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert re.findall(r"\\tag\{(\d+)\}", text) == [str(number) for number in range(1, 15)]


def test_the_alignments_of_the_method_run_on_another_model(parts: dict[str, Any]) -> None:
    torch.manual_seed(0)
    scope = run("docs/method.md", "python", parts)
    aligned = scope["model"]
    chance = 20 / aligned.num_items
    assert evaluate(aligned, scope["test"])["recall@20"] > 1.5 * chance


def test_the_names_in_the_method_are_arguments_of_ours(toy: HeteroData) -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    section = text.split("## Where code and paper differ")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)=", section))
    assert len(named) >= 9
    assert named <= AlignRec(toy, features=["image"]).hparams.keys()


def test_the_feature_evaluations_run(
    parts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scope = run("docs/features.md", "python features", parts)
    assert "BootstrapInterval(" in capsys.readouterr().out
    assert scope["text"].recall[20] > 1.5 * scope["text"].random[20]


def test_the_data_frame_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {
        "interactions": pd.DataFrame(
            {"customer": ["a", "a", "b"], "sku": [7, 9, 7], "bought_at": [1, 2, 3]}
        ),
        "items": pd.DataFrame(
            {"sku": [7, 9], "title": ["x", "y"], "description": ["", "z"], "photo": [None, "y.png"]}
        ),
        "item_ids": [9, 7],
        "matrix": np.ones((2, 3), dtype=np.float32),
    }
    run("docs/data.md", "python frames", scope)
    assert "audio" in capsys.readouterr().out


def test_the_example_of_known_pairs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(user, item, 5) for user in "ab" for item in "xyz"] + [("a", "w", 1), ("b", "w", 2)]
    ratings = pd.DataFrame([*pairs, ("c", "w", 5)], columns=["user", "item", "rating"])
    views = pd.DataFrame({"user": ["a", "b"], "item": ["x", "w"]})
    run("docs/data.md", "python known", {"ratings": ratings, "views": views})
    assert capsys.readouterr().out == "0 known pairs\n"  # w is liked once, and no 2-core has it


def test_the_examples_on_files_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    links = {"customer": ["a", "b"], "sku": [7, 9], "bought_at": [1, 2]}
    pd.DataFrame(links).to_csv("ratings.csv.gz", index=False)
    pd.DataFrame({"sku": [9, 7], "title": ["x", "y"]}).to_parquet("items.parquet")
    matrix = csr_array(np.eye(2))
    scope: dict[str, Any] = {"train_matrix": matrix, "test_matrix": matrix, "skus": ["p", "q"]}
    (block,) = blocks("docs/data.md", "python files")
    exec(compile(block.split("dataset = from_scipy")[0], "data.md", "exec"), scope)
    assert re.search(r"users +2\n", capsys.readouterr().out)
    assert scope["dataset"].data["item"].text == ["x", "y"]
    exec(compile(block, "data.md", "exec"), scope)
    assert scope["dataset"].data["item"].id.tolist() == ["p", "q"]
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^alignrec (check ratings.csv.gz .*)$", page, flags=re.MULTILINE)
    assert main(command.split()) == 0


def test_the_movielens_example_runs(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_folder)
    scope = run("docs/data.md", "python movielens", {})
    assert scope["data"]["item"].num_nodes > 1000


def test_the_raw_content_example_runs(
    tmp_path: Path,
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = blocks("docs/data.md", "python raw")
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, colour in enumerate(["red", "blue", "lime", "gold"] * 6):
        photo = tmp_path / f"{number}.png"
        Image.new("RGB", (20 + number, 30), colour).save(photo)
        rows.append({"title": f"{colour} cup", "brand": None, "photo": str(photo)})
    rows.append({"title": "no photo", "photo": None})
    data = HeteroData()
    data["item"].num_nodes = len(rows)
    weights = tmp_path / "weights.safetensors"
    write_tensors(weights, CLIPEncoder(tiny_clip).model.state_dict())
    block = block.replace('"ViT-B-32"', repr(tiny_clip))
    scope: dict[str, Any] = {"data": data, "rows": rows, "weights": weights}
    exec(compile(block, "data.md", "exec"), scope)
    assert "25 of 25 items have a row" in capsys.readouterr().out
    assert scope["data"]["item"].x_mm.shape == (25, 32)


def test_the_serving_example_runs(
    parts: dict[str, Any],
    encoders: tuple[TfidfEncoder, PatchPCAEncoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    data, items = parts["data"], parts["data"]["item"].id.tolist()
    scope = (
        parts
        | {
            "model": AlignRec(parts["train"], features=["mm"], item_graph="mm"),
            "user_ids": data["user"].id[:3],
            "user_id": data["user"].id[0],
            "in_stock": items[:40],
            "sold_out": items[3],
            "item_id": items[5],
            "new_ids": [900, 901],  # of the type of the others
            "texts": data["item"].text[:2],
            "images": list(data["item"].image[:2]),
            "text_encoder": encoders[0],
            "image_encoder": encoders[1],
        }
    )
    scope = run("docs/serving.md", "python serving", scope)
    assert scope["grown"].data["item"].num_nodes == 152
    copied = scope["grown"].data["item"].x_mm
    assert torch.allclose(copied[150:], copied[:2], atol=1e-5)
    assert (tmp_path / "best.parquet").is_file()


def test_the_model_of_the_guide_is_used_as_the_guide_says(
    parts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The conformance tests run on it too."""
    scope = run("docs/add_a_model.md", "python", parts)
    scope = run("docs/add_a_model.md", "python use", scope)
    assert capsys.readouterr().out.count("recall@20") == 2
    for model in (scope["model"], scope["aligned"]):
        chance = 20 / model.num_items
        assert evaluate(model, scope["test"])["recall@20"] > 1.5 * chance


@pytest.mark.usefixtures("plain_runs")
def test_commands_find_the_model_of_the_guide_in_a_file(
    parts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    Path("my_models.py").write_text(blocks("docs/add_a_model.md", "python")[0])
    split = parts["train"], parts["val"], parts["test"]
    to_mmrec(parts["data"], "films", split=split)
    profile, once = "my_models:Profile", ["--epochs", "1"]
    compared = ["--models", profile, "BPR", *once, "--seeds", "1", "--jobs", "1", "--out", "table"]
    assert main(["compare", "films", *compared]) == 0
    assert re.search(r"^Profile +\S*0\.\d{4}", capsys.readouterr().out, flags=re.MULTILINE)
    assert main(["train", "films", "--model", profile, *once, "--out", "run"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert "Profile on the test links of" in capsys.readouterr().out


def test_the_script_for_torchrun_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the only worker, which torchrun would tell so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(
        distributed,
        "init_process_group",
        lambda backend, init=distributed.init_process_group: init(
            "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
        ),
    )
    run("docs/cluster.md", "python", {"__name__": "train"})
    assert "recall@20" in capsys.readouterr().out
    assert (tmp_path / "run" / "state.json").exists()
    assert not distributed.is_initialized()


def test_the_examples_for_ray_are_calls_of_ours() -> None:
    """They need a cluster: what they import is there, and they are Python."""
    needing_one = blocks("docs/cluster.md", "python no-run")
    assert len(needing_one) == 2
    for block in needing_one:
        check_imports(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_that_no_test_runs_import_what_there_is(page: Path) -> None:
    for block in blocks(str(page.relative_to(ROOT)), "python no-test"):
        check_imports(block)


def check_imports(block: str) -> None:
    compile(block, "page", "exec")
    exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), {})


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's blocks that runs something of ours."""
    found = []
    for kind, block in re.findall(
        r"^```(bash|console)\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    ):
        for line in block.replace("\\\n", " ").splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue  # what a command printed
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:2] == ["uv", "run"]:
                words = words[2:]
                while words[:1] == ["--extra"]:
                    words = words[2:]
            if words[:1] == ["python"]:
                words = words[1:]
            script = words[:1] and (ROOT / words[0]).suffix == ".py" and (ROOT / words[0]).exists()
            if words[:1] in (["-m"], ["alignrec"]) or script:
                found.append(words)
    assert found or page.name != "README.md"
    return found


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the program that ``words`` start says about its options."""
    if words[0] == "alignrec":
        main([*(word for word in words[1:2] if not word.startswith("--")), "--help"])
    else:
        name = words[1] if words[0] == "-m" else words[0]
        run = runpy.run_module if words[0] == "-m" else runpy.run_path
        with patch.object(sys, "argv", [name, "--help"]), pytest.raises(SystemExit):
            run(str(name if words[0] == "-m" else ROOT / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")  # by another test
@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.stem)
def test_options_in_commands_are_in_their_help(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for words in commands(page):
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        known = set(re.findall(r"--[\w-]+", help_of(words, capsys)))
        assert flags <= known, " ".join(words)


def documented() -> dict[str, list[str]]:
    """The names that the pages of the API and of the models document, by module."""
    names: dict[str, list[str]] = {"alignrec_pyg.models": list(NAMES)}
    for page in sorted((ROOT / "docs" / "api").glob("*.rst")):
        module = ""
        for kind, name in re.findall(
            r"^\.\. (currentmodule|auto\w+):: (\S+)$", page.read_text("utf-8"), flags=re.MULTILINE
        ):
            if kind in ("currentmodule", "automodule"):
                module = name
            else:
                names.setdefault(module, []).append(name)
    return names


def test_the_api_documents_public_names_once() -> None:
    """Where it is defined for users, if another package passes it on."""
    found: dict[int, str] = {}
    for name, documented_names in documented().items():
        module = importlib.import_module(name)
        public = getattr(module, "__all__", dir(module))
        for entry in documented_names:
            assert entry in public, (name, entry)
            assert found.setdefault(id(getattr(module, entry)), name) == name, entry
        assert len(documented_names) == len(set(documented_names))
    for package in PACKAGES:
        module = importlib.import_module(package)
        public = {name: getattr(module, name) for name in module.__all__}
        missing = [
            name
            for name, value in public.items()
            # what nodes and edges are called, which is no API, is in the package's text
            if not isinstance(value, ModuleType | str | tuple) and id(value) not in found
        ]
        assert missing == [], package


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_in_the_contents(page: Path) -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    entries = [
        line
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", index, flags=re.MULTILINE | re.DOTALL)
        for line in tree.splitlines()
    ]
    assert page.name == "index.md" or entries.count(page.stem) == 1


def test_the_loggers_of_the_page_get_names_that_all_take(
    toy: HeteroData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MLflow's rule, which refuses others."""
    logged: dict[str, dict[int, dict[str, float]]] = {"tensorboard": {}, "mlflow": {}, "wandb": {}}

    def log(logger: str, values: dict[str, float], step: int) -> None:
        for name in values:
            assert re.fullmatch(r"[\w\-. :/]+", name, flags=re.ASCII), name
        logged[logger].setdefault(step, {}).update(values)

    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: log("tensorboard", {name: value}, step)
    )
    run = SimpleNamespace(log=lambda values, step: log("wandb", values, step))
    for name, module in {
        "torch.utils.tensorboard": SimpleNamespace(SummaryWriter=lambda folder: writer),
        "mlflow": SimpleNamespace(log_metrics=lambda values, step: log("mlflow", values, step)),
        "wandb": SimpleNamespace(init=lambda project: run),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    config = TrainConfig(max_epochs=2, ks=(1,), monitor="recall@1")
    scope = {"model": LightGCN(toy), "train": toy, "val": toy, "config": config}
    exec("\n".join(blocks("docs/loggers.md", "python loggers")), scope)
    best = scope["result"].best_metrics["recall@1"]
    assert scope["result"].num_epochs == 2
    for curves in logged.values():
        assert max(values["recall_at_1"] for values in curves.values()) == best
        assert curves[scope["result"].best_epoch]["best_recall_at_1"] == best


def test_the_example_of_the_demo_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the launch of the page, in whose place the showcase is asked."""
    (script,) = blocks("docs/demo.md", "python")
    script = script.replace("max_epochs=20", "max_epochs=1")
    asked: list[Showcase] = []

    class Asked:
        def __init__(self, showcase: Showcase, *, title: str) -> None:
            asked.append(showcase)

        def launch(self) -> None:
            assert asked[0].for_user("3", 5).recommended[0].item.title.startswith("Item ")
            text = asked[0].new_item(None, Synthetic(seed=0).data["item"].text[3], 5)
            assert text.used == ("text",)

    page_module = sys.modules["alignrec_pyg.demo.page"]  # the package has a function of that name
    monkeypatch.setattr(page_module, "require_package", lambda *given, **named: None)
    monkeypatch.setattr(page_module, "Page", Asked)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "demo.md", "exec"), {"__name__": "show"})
    assert asked[0].reads == ("image", "text")


def test_the_encoders_of_the_page_run(
    encoded: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run("docs/encoders.md", "python sklearn", {"data": encoded})
    torch.manual_seed(0)
    scope = run("docs/encoders.md", "python own", scope)
    torch.manual_seed(0)
    encoder = scope["SmallNetwork"]()
    assert scope["data"]["item"].x_german.size(1) == 32
    expected = encoder(ItemContent(image=encoded["item"].image[7:8]))
    assert torch.allclose(scope["data"]["item"].x_small[7:8], expected)
    assert scope["SmallNetwork"]().cache_key != encoder.cache_key  # of other weights
