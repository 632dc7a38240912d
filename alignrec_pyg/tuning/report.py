"""What a sweep leaves behind: tables, importance and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignrec_pyg.experiments.results import chart_possible
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.tuning.configurations import (
    Configuration,
    configurations_table,
    ranked,
    trials_csv,
)
from alignrec_pyg.tuning.importance import importances
from alignrec_pyg.tuning.plots import write_parallel, write_responses
from alignrec_pyg.tuning.spaces import Space

_SHOWN = 10


def write_report(
    session: Session, configurations: Sequence[Configuration], space: Space, by_hand: str
) -> list[Path]:
    """Prints the best configurations; writes ``search.csv``, ``search.md`` and the pictures.

    Args:
        session: The script at work.
        configurations: All of them.
        space: What was searched.
        by_hand: The command line of the chosen one.

    Returns:
        The files written.
    """
    (name,) = session.presets
    title = f"{name} on {session.data.name}: {len(configurations)} configurations"
    shares = importances(configurations, space)
    notes = [
        _seeds(session),
        _counts(configurations),
        _importance(shares),
        f"By hand: `{by_hand}`",
    ]
    table = configurations_table(configurations, space)
    print("\n" + configurations_table(ranked(configurations)[:_SHOWN], space) + "\n")
    print("\n".join(notes[:3]))
    out = session.out
    texts = {
        out / "search.csv": trials_csv(configurations, space),
        out / "search.md": f"# {title}\n\n{table}\n\n" + "\n\n".join(notes) + "\n",
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    if not chart_possible():
        return list(texts)
    pictures = [out / "search_parallel.png", out / "search_response.png"]
    write_parallel(pictures[0], title, configurations, space)
    write_responses(pictures[1], title, configurations, space, shares)
    return [*texts, *pictures]


def _seeds(session: Session) -> str:
    return (
        f"Validation only. All configurations ran with seed 0, the best "
        f"{session.options.finalists} with seeds 0 to {len(session.seeds) - 1} "
        "(mean ± standard deviation)."
    )


def _counts(configurations: Sequence[Configuration]) -> str:
    outcomes = [trial.outcome for entry in configurations for trial in entry.trials]
    told = [f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes)]
    seconds = sum(trial.seconds for entry in configurations for trial in entry.trials)
    return f"{len(outcomes)} trials: {', '.join(told)}; one after another {seconds:.0f} s."


def _importance(shares: dict[str, float]) -> str:
    if not shares:
        return "Importance: too few configurations with different values."
    told = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return f"Importance (share of variance of validation recall@20, fANOVA): {told}."
