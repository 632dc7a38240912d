"""Table 9 of the paper: what each model costs in parameters, time and memory.

    python benchmarks/cost.py
    python benchmarks/cost.py --shape electronics --models LightGCN FREEDOM MGCN AlignRec
    python benchmarks/cost.py --data FOLDER --widths image=4096 text=384

Links of Amazon Baby's shape are made up unless ``--data`` names a folder in MMRec format; features
are made up in any case, as wide as ``--widths`` says (AlignRec reads all tables as one). Every
model runs in a process of its own: set-up from links and features to the built model (item graphs
included), one epoch with batches of 2,048, one evaluation on validation links. The evaluation is
split into the graphs made for it (once, kept afterwards), propagation, scoring with top-k,
and metrics. Peak memory is the largest resident size
less that after all imports; it includes links and features.

The paper's times are of unnamed hardware and stand for orientation; its counts of BM3 and MGCN
differ from what their published code allocates.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.evaluate import user_metrics
from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_key, links_to_predict
from alignrec_pyg.models import Recommender
from alignrec_pyg.ranking import rank
from alignrec_pyg.report import describe, describe_split
from alignrec_pyg.sampling import TripletSampler, seeded_generator
from alignrec_pyg.transforms import SplitInteractions
from benchmarks.command import positive_int, say
from benchmarks.generated import BABY, ELECTRONICS, generate_features, generate_links
from benchmarks.memory import PeakMemory
from benchmarks.paper_results import MILLION_PARAMETERS
from benchmarks.prepare import PreparedData, data_name
from benchmarks.presets import PAPER, Preset
from benchmarks.provenance import commit, hardware, versions
from benchmarks.settings import SettingsError, unknown_names

SHAPES = {"baby": BABY, "electronics": ELECTRONICS}
WIDTHS = {"image": 384, "text": 384}
"""Together as wide as AlignRec's features."""

COLUMNS = {
    "parameters": "parameters",
    "set-up": "set-up s",
    "epoch": "epoch s",
    "graphs": "inference graphs s",
    "propagation": "propagation s",
    "scoring": "scoring s",
    "metrics": "metrics s",
    "memory": "peak MB",
}
_MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models.

    Returns:
        0, 1 if a model failed, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    if options.model is not None:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.model, options)))
        return 0
    names = options.models or list(PAPER)
    problems = unknown_names("model", names, list(PAPER))
    try:
        _widths(options)
    except SettingsError as error:
        problems += error.problems
    if options.data is not None and not options.data.is_dir():
        problems.append(f"--data {options.data}: needs to be a folder")
    if problems:
        for problem in problems:
            say(f"cost.py: {problem}")
        return 2
    torch.set_num_threads(options.threads)
    found = {}
    for name in names:
        result = _in_a_process(name, sys.argv[1:] if arguments is None else list(arguments))
        if result is not None:
            say(
                f"{name}: "
                + ", ".join(f"{title} {_text(result, key)}" for key, title in COLUMNS.items())
            )
            found[name] = result
    if found:
        _write(options, found)
    return 0 if len(found) == len(names) else 1


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Time and memory of one model, in this process."""
    _first_step_of_adam()
    preset, seconds = PAPER[name], {}
    with PeakMemory(torch.device("cpu")) as memory:
        data = load(options, _widths(options))
        start = perf_counter()
        torch.manual_seed(0)
        model = preset.model(data.train, **{**preset.hparams(), **data.inputs(preset)})
        seconds["set-up"] = perf_counter() - start
        seconds["epoch"] = train_epoch(model, data.train, preset)
        model.eval()
        with torch.no_grad():
            first = _seconds(lambda: model(data.val))  # makes what the later ones find ready
            seconds["propagation"] = _seconds(lambda: model(data.val))
        seconds["graphs"] = first - seconds["propagation"]
        start = perf_counter()
        ranking = rank(model, data.val)
        seconds["scoring"] = perf_counter() - start - seconds["propagation"]
        start = perf_counter()
        for k in (10, 20):
            user_metrics(ranking, links_to_predict(data.val), k)
        seconds["metrics"] = perf_counter() - start
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "memory": float("nan") if memory.peak_bytes is None else memory.peak_bytes / _MB,
        **seconds,
    }


def _seconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def train_epoch(model: Recommender, train: HeteroData, preset: Preset) -> float:
    """Seconds of one epoch, sampling included, as ``fit`` runs it."""
    config = preset.train
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=0)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    model.train()
    start = perf_counter()
    model.on_epoch_start(train, seeded_generator(0, 0, 1))
    for step, batch in enumerate(sampler.epoch(0)):
        model.on_batch_start(seeded_generator(0, 0, 2, step))
        optimizer.zero_grad(set_to_none=True)
        model.loss(train, batch)[0].backward()
        optimizer.step()
    return perf_counter() - start


def load(options: argparse.Namespace, widths: Mapping[str, int]) -> PreparedData:
    """Links, made up or read, with made-up features."""
    if options.data is not None:
        folder = MMRecFolder(options.data, features=[])
        train, val, test = SplitInteractions(
            "labels" if "split" in folder.data[INTERACTS] else "random"
        )(folder.data)
    else:
        shape = SHAPES[options.shape]
        links = generate_links(shape)
        train, val, test = HeteroData(), HeteroData(), HeteroData()
        for part, labels in ((train, links[0]), (val, links[1]), (test, links[1])):
            part[USER].num_nodes, part[ITEM].num_nodes = shape.num_users, shape.num_items
            part[INTERACTS].edge_index = links[0]
            part[INTERACTS].edge_label_index = labels
    for seed, (name, width) in enumerate(widths.items()):
        table = generate_features(int(train[ITEM].num_nodes), seed, width)
        for part in (train, val, test):
            part[ITEM][feature_key(name)] = table
    return PreparedData(
        name=_data_name(options),
        train=train,
        val=val,
        test=test,
        features=list(widths),
        neighbors={},
        source_report=describe(train),
        split=describe_split(train, val, test),
        split_rule="labels",
    )


def _in_a_process(name: str, arguments: Sequence[str]) -> dict[str, float] | None:
    command = [sys.executable, "-W", "ignore", __file__, *arguments, "--model", name]
    with tempfile.TemporaryFile("w+") as problems:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=problems, text=True, check=False
        )
        if done.returncode:
            problems.seek(0)
            lines = problems.read().strip().splitlines() or [f"exit status {done.returncode}"]
            say(f"{name}: failed: {lines[-1]}")
            return None
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _write(options: argparse.Namespace, found: Mapping[str, Mapping[str, float]]) -> None:
    published = MILLION_PARAMETERS.get("baby" if options.shape == "baby" else "", {})
    lines = [
        f"| model | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
        *(
            f"| {name} | {' | '.join(_text(result, key) for key in COLUMNS)} |"
            for name, result in found.items()
        ),
    ]
    widths = ", ".join(f"{name} {width}" for name, width in _widths(options).items())
    about = {
        "data": _data_name(options),
        "features": f"made up: {widths}",
        "threads": options.threads,
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    notes = [f"{name}: {value}" for name, value in about.items()]
    notes.append("one epoch and one evaluation each, in a process of its own; no repeats")
    if published and _widths(options) == {"image": 4096, "text": 384}:
        notes.append(
            "paper (Table 9, Baby), million parameters: "
            + ", ".join(f"{model} {count}" for model, count in published.items())
        )
    print("\n" + "\n".join([*lines, "", *(f"- {note}" for note in notes)]))
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["# What the models cost", "", *lines, "", *(f"- {note}" for note in notes)])
    (out / "cost.md").write_text(text + "\n", encoding="utf-8")
    summary: dict[str, Any] = {**about, "models": found}
    (out / "cost.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"written: {out / 'cost.md'}, {out / 'cost.json'}")


def _text(result: Mapping[str, float], key: str) -> str:
    return f"{result[key]:,.0f}" if key in ("parameters", "memory") else f"{result[key]:.2f}"


def _widths(options: argparse.Namespace) -> dict[str, int]:
    widths = {}
    for entry in options.widths or [f"{name}={width}" for name, width in WIDTHS.items()]:
        name, _, width = entry.partition("=")
        if not name or not width.isdigit() or int(width) < 1:
            raise SettingsError([f"--widths {entry}: needs the form NAME=NUMBER"])
        widths[name] = int(width)
    return widths


def _data_name(options: argparse.Namespace) -> str:
    if options.data is not None:
        return data_name(str(options.data))
    return f"made-up links of the shape of Amazon {options.shape.capitalize()}"


def _first_step_of_adam() -> None:
    """Torch imports more only then."""
    number = torch.nn.Parameter(torch.ones(1))
    number.sum().backward()
    torch.optim.Adam([number]).step()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help=f"of {', '.join(PAPER)} (all)")
    add("--data", type=Path, metavar="PATH", help="folder in MMRec format, for its links")
    add("--shape", choices=SHAPES, default="baby", help="size of made-up links (baby)")
    add("--widths", nargs="+", metavar="NAME=N", help="feature tables (image=384 text=384)")
    add("--threads", type=positive_int, default=torch.get_num_threads(), metavar="N")
    add("--out", type=Path, default=Path("results/cost"), metavar="DIR")
    add("--model", help=argparse.SUPPRESS)  # the process of one model
    return parser


if __name__ == "__main__":
    sys.exit(main())
