"""Where stage 1 stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignrec_pyg.training.state import RunState


@dataclass
class PretrainState(RunState):
    """Where pre-training stands, beside weights and optimiser; no best weights are kept.

    Args:
        sums: Sums of terms, counts and the rest since the last entry of the history.
    """

    sums: dict[str, float] = field(default_factory=dict)
