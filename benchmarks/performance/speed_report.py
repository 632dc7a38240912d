"""What a run of ``benchmarks/speed.py`` says: tables, and whether the two sides agree."""

from __future__ import annotations

from typing import Any

SETUP_PARTS = ("item graph", "model", "sampler", "first loss")
LOSS_TOLERANCE = 1e-4  # relative, float32 sums of about a million terms
# Near-ties, of neighbours or of scores, may swap two items: for so many users or items at most.
NEAR_TIES = 3
WEIGHT_TOLERANCE = 1e-5  # absolute; weights are about 0.1


def disagreements(ours: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """The values that differ by more than rounding allows, one line each."""
    lines = []
    for name, value in reference["loss"].items():
        if not abs(ours["loss"][name] - value) <= LOSS_TOLERANCE * abs(value):
            lines.append(f"loss {name}: {ours['loss'][name]!r} against {value!r}")
    tolerance = NEAR_TIES / ours["metrics"]["num_users"]
    for name, value in reference["metrics"].items():
        if not abs(ours["metrics"][name] - value) <= tolerance:
            lines.append(f"{name}: {ours['metrics'][name]!r} against {value!r}")
    if not reference["differing_edges"] <= NEAR_TIES:
        lines.append(f"item graph: {reference['differing_edges']} edges")
    if not reference["edge_weight_error"] <= WEIGHT_TOLERANCE:
        lines.append(f"item graph: weights differ by up to {reference['edge_weight_error']:.1e}")
    return lines


def report(result: dict[str, Any]) -> str:
    """The tables of a finished run, in Markdown."""
    ours, reference = result["ours"], result["reference"]
    seconds, slow = ours["seconds"], reference["seconds"]
    rows: list[tuple[str, float, float]] = [
        ("set-up [s]", _setup_seconds(seconds), _setup_seconds(slow)),
        ("epoch [s]", seconds["epoch"], slow["epoch"]),
        ("evaluation [s]", seconds["evaluation"], slow["evaluation"]),
        ("peak memory above imports [MB]", _megabytes(ours), _megabytes(reference)),
    ]
    lines = [
        f"AlignRec on {result['data']}: {result['num_users']} users, {result['num_items']} items, "
        f"{result['num_train']} training and {result['num_val']} validation links, "
        f"features and parameters of seed 0; "
        f"{result['epochs']} epoch(s); commit {result['commit']}; {result['hardware']}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        "| | ours | reference | reference / ours |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {a:.2f} | {b:.2f} | {b / a:.1f} |" for name, a, b in rows),
        "",
        "Parts in seconds (the reference builds its item graph with its model):",
        "",
        "| | ours | reference |",
        "|---|---:|---:|",
    ]
    for name in (*SETUP_PARTS, "sampling", "forward", "backward", "Adam"):
        other = f"{slow[name]:.3f}" if name in slow else ""
        lines.append(f"| {name} | {seconds[name]:.3f} | {other} |")
    lines += [
        "",
        "| same input, same value | ours | reference | difference |",
        "|---|---:|---:|---:|",
    ]
    for kind, label in (("loss", "first batch, "), ("metrics", "validation, ")):
        for name, value in reference[kind].items():
            mine = ours[kind][name]
            lines.append(f"| {label}{name} | {mine:.7f} | {value:.7f} | {mine - value:.1e} |")
    lines += [
        f"| item graph, differing edges | | | {reference['differing_edges']} |",
        f"| item graph, weights of the others | | | {reference['edge_weight_error']:.1e} |",
        "",
        "| two LGConv layers, forward + backward | ms | against the fastest |",
        "|---|---:|---:|",
    ]
    fastest = min(result["propagation"].values())
    for name, value in result["propagation"].items():
        lines.append(f"| {name} | {value:.1f} | {value / fastest:.1f} |")
    if ours["profile"]:
        lines += ["", "Operators of one epoch of ours:", "", "```", ours["profile"].strip(), "```"]
    return "\n".join(lines) + "\n"


def _setup_seconds(seconds: dict[str, float]) -> float:
    return sum(seconds.get(part, 0.0) for part in SETUP_PARTS)


def _megabytes(side: dict[str, Any]) -> float:
    """NaN where the system does not say."""
    return float("nan") if side["memory"] is None else side["memory"] / 1e6
