"""Where the training of a recommender stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignrec_pyg.run_state import RunState


@dataclass
class TrainState(RunState):
    """Where training stands, beside the weights and the optimiser.

    Args:
        loss_sums: Sums of the loss terms over the batches of the current epoch.
        best_metrics: Validation metrics of the best epoch.
        num_stale: Evaluations since then.
    """

    loss_sums: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    num_stale: int = 0
