"""Table 9 of the paper: what each model costs in parameters, time and memory.

    python benchmarks/cost.py
    python benchmarks/cost.py --shape electronics --models LightGCN FREEDOM MGCN AlignRec
    python benchmarks/cost.py --data FOLDER --widths image=4096 text=384
    python benchmarks/cost.py --shape electronics --device cuda

Links of Amazon Baby's shape are made up unless ``--data`` names a folder in MMRec format; features
are made up in any case, as wide as ``--widths`` says (AlignRec reads all tables as one). Every
model runs in a process of its own: set-up from links and features to the built model (item graphs
included), one epoch with batches of 2,048, then inference over the test links. Inference is split
into the graphs made for it (the first forward pass less a later one; made once, kept afterwards),
propagation, scoring with the top 50, and metrics, medians of three each. Peak memory is the largest
resident size less that after all imports, on a GPU the most that tensors took of its memory; it
includes links and features.

The paper's figures stand below the table for the models whose data and widths of features are its
own (or made up in their sizes); its times are of unnamed hardware and stand for orientation. Table
and picture go to ``--out``.

Exit status: 0, 1 if a model failed, 2 if the arguments do not fit.
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
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import device_named, positive_int, problems_of_folder
from alignrec_pyg.cli.options import unknown_names
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.paper import is_papers
from alignrec_pyg.experiments.prepare import PreparedData, data_name
from alignrec_pyg.experiments.presets import PAPER, Preset
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.experiments.session import log
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_key, links_to_predict
from alignrec_pyg.models import Recommender
from alignrec_pyg.report import describe, describe_split
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.transforms import SplitInteractions
from alignrec_pyg.transforms.split_interactions import SplitRule
from benchmarks.performance.cost_report import (
    COLUMNS,
    CostReport,
    Costs,
    cost_text,
    notes,
    table,
    write,
)
from benchmarks.performance.generated import (
    BABY,
    ELECTRONICS,
    SPORTS,
    generate_features,
    generate_links,
)

SHAPES = {"baby": BABY, "sports": SPORTS, "electronics": ELECTRONICS}
WIDTHS = {"image": 384, "text": 384}
"""Together as wide as AlignRec's features."""

_REPEATS = 3
_MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models.

    Returns:
        0, 1 if a model failed, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.measure_here is not None:
        print(json.dumps(measure(options.measure_here, options)))
        return 0
    names = list(dict.fromkeys(options.models or PAPER))
    problems = unknown_names("model", names, list(PAPER))
    device_named(options.device, problems)
    try:
        _widths(options)
        paper_data = _paper_data(options)
    except SettingsError as error:
        problems += error.problems
    problems = problems or problems_of_folder(options.out)
    if problems:
        for problem in problems:
            log(f"cost.py: {problem}")
        return 2
    found = {}
    for name in names:
        costs = _in_a_process(name, sys.argv[1:] if arguments is None else list(arguments))
        if costs is not None:
            told = (f"{title} {cost_text(costs, key)}" for key, title in COLUMNS.items())
            log(f"{name}: {', '.join(told)}")
            found[name] = costs
    if found:
        _tell(_report(options, found, paper_data), options.out)
    return 0 if len(found) == len(names) else 1


def measure(name: str, options: argparse.Namespace) -> Costs:
    """Time and memory of one model, in this process."""
    device = device_named(options.device, [])
    _first_step_of_adam(device)
    preset, seconds = PAPER[name], {}
    with PeakMemory(device) as memory:
        data = load(options, _widths(options))
        for graph in (data.train, data.val, data.test):
            graph.to(str(device))
        start = perf_counter()
        torch.manual_seed(0)
        model = preset.model(data.train, **{**preset.hparams(), **data.inputs(preset)}).to(device)
        _wait_for(device)
        seconds["set-up"] = perf_counter() - start
        seconds["epoch"] = train_epoch(model, data.train, preset)
        seconds |= _inference(model, data.test)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "memory": None if memory.peak_bytes is None else memory.peak_bytes / _MB,
        **seconds,
    }


def train_epoch(model: Recommender, train: HeteroData, preset: Preset) -> float:
    """Seconds of the first epoch, sampling included, as ``fit`` runs it."""
    config = preset.train
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=config.seed)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    device = train[INTERACTS].edge_index.device
    model.train()
    start = perf_counter()
    model.on_epoch_start(train, seeded_generator(config.seed, 0, 1, device=device))
    for step, batch in enumerate(sampler.epoch(0)):
        model.on_batch_start(seeded_generator(config.seed, 0, 2, step, device=device))
        optimizer.zero_grad(set_to_none=True)
        loss, _ = model.loss(train, batch)
        loss.item()  # fit looks at every loss, and so waits for the device
        loss.backward()
        optimizer.step()
    _wait_for(device)
    return perf_counter() - start


def _inference(model: Recommender, test: HeteroData) -> dict[str, float]:
    """Seconds of each part of scoring the test links."""
    device = test[INTERACTS].edge_index.device

    def seconds(action: Callable[[], object]) -> float:
        start = perf_counter()
        action()
        _wait_for(device)
        return perf_counter() - start

    def median_seconds(action: Callable[[], object]) -> float:
        return median(seconds(action) for _ in range(_REPEATS))

    model.eval()
    with torch.no_grad():
        first = seconds(lambda: model(test))  # makes what the later ones find ready
        propagation = median_seconds(lambda: model(test))
    ranking, links = rank(model, test), links_to_predict(test)
    return {
        "graphs": first - propagation,
        "propagation": propagation,
        "scoring": median_seconds(lambda: rank(model, test)) - propagation,
        "metrics": median_seconds(lambda: [user_metrics(ranking, links, k) for k in (10, 20)]),
    }


def _wait_for(device: torch.device) -> None:
    """A GPU goes on working when Python is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def load(options: argparse.Namespace, widths: Mapping[str, int]) -> PreparedData:
    """Links, made up or read, with made-up features."""
    rule: SplitRule = "labels"
    if options.data is not None:
        folder = MMRecFolder(options.data, features=[])
        if "split" not in folder.data[INTERACTS]:
            rule = "random"
        train, val, test = SplitInteractions(rule)(folder.data)
    else:
        shape = SHAPES[options.shape]
        links = generate_links(shape)
        train, val, test = HeteroData(), HeteroData(), HeteroData()
        for part, labels in zip((train, val, test), links, strict=True):
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
        scale="raw",
        neighbors={},
        source_report=describe(train),
        split=describe_split(train, val, test),
        split_rule=rule,
    )


def _in_a_process(name: str, arguments: Sequence[str]) -> Costs | None:
    """What one model costs; ``None``, told with the last line of its error, if it failed."""
    command = [sys.executable, "-W", "ignore", __file__, *arguments, "--measure-here", name]
    with tempfile.TemporaryFile("w+") as problems:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=problems, text=True, check=False
        )
        if done.returncode:
            problems.seek(0)
            lines = problems.read().strip().splitlines() or [f"exit status {done.returncode}"]
            log(f"{name}: failed: {lines[-1]}")
            return None
    costs: Costs = json.loads(done.stdout.splitlines()[-1])
    return costs


def _report(
    options: argparse.Namespace, found: Mapping[str, Costs], paper_data: str | None
) -> CostReport:
    widths = _widths(options)
    return CostReport(
        models=found,
        widths=widths,
        paper_data=paper_data,
        made_up=options.data is None,
        about={
            "data": _data_name(options),
            "features": "made up: "
            + ", ".join(f"{name} {width}" for name, width in widths.items()),
            "threads": options.threads,
            "commit": commit(),
            "hardware": hardware(device_named(options.device, [])),
            "versions": versions(),
        },
    )


def _tell(report: CostReport, out: Path) -> None:
    print("\n" + "\n".join([*table(report), "", *(f"- {note}" for note in notes(report))]))
    print(f"written: {', '.join(str(path) for path in write(report, out))}")


def _paper_data(options: argparse.Namespace) -> str | None:
    """The paper's data set that the links are, or have the shape of, if any."""
    if options.data is None:
        return str(options.shape)
    try:
        report = MMRecFolder(options.data, features=[]).report
    except ValueError as error:
        raise SettingsError([f"--data {options.data}: {error}"]) from error
    name = data_name(str(options.data))
    return name if is_papers(name, report) else None


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


def _first_step_of_adam(device: torch.device) -> None:
    """Torch imports more only then."""
    number = torch.nn.Parameter(torch.ones(1, device=device))
    number.sum().backward()
    torch.optim.Adam([number]).step()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help=f"of {', '.join(PAPER)} (all)")
    add("--data", type=Path, metavar="PATH", help="folder in MMRec format, for its links")
    add("--shape", choices=SHAPES, default="baby", help="size of made-up links (baby)")
    add("--widths", nargs="+", metavar="NAME=N", help="feature tables (image=384 text=384)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="where to run (auto)")
    add("--threads", type=positive_int, default=torch.get_num_threads(), metavar="N")
    add("--out", type=Path, default=Path("results/cost"), metavar="DIR")
    add("--measure-here", help=argparse.SUPPRESS)  # the process of one model
    return parser


if __name__ == "__main__":
    sys.exit(main())
