"""Searches AlignRec's loss weights with Ray Tune, by a training function of your own.

    uv run --extra tune python tuning/own_trainable.py
    uv run --extra tune python tuning/own_trainable.py path/to/folder --num-samples 30

``alignrec tune`` does all of this and more. The example shows what it does not do: ``trial`` may
build and train anything, as long as it reports to Ray Tune.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def trial(
    config: dict[str, Any],
    train: HeteroData,
    val: HeteroData,
    inputs: dict[str, Any],
    epochs: int,
) -> None:
    """Trains AlignRec with the weights in ``config``; Ray calls it in processes of its own."""
    from ray import tune

    from alignrec_pyg import AlignRec, TrainConfig, fit

    model = AlignRec(train, **inputs, **config)
    training = TrainConfig(max_epochs=epochs, eval_every=1)
    # After every epoch: its metrics, and best_recall@20, the best so far, which never falls.
    fit(model, train, val, training, report=lambda _, m: tune.report(m))


def main(
    path: Annotated[str, typer.Argument(help="An MMRec folder.")] = "synthetic",
    num_samples: Annotated[int, typer.Option(help="Weights to try.")] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder of Ray's trials.")] = Path("results/ray"),
) -> None:
    """Search AlignRec's loss weights with Ray Tune; validation recall@20 chooses."""
    from ray import tune

    from alignrec_pyg import AlignRec
    from alignrec_pyg.experiments.prepare import prepare

    data = prepare(path)
    inputs = data.inputs(AlignRec)  # names of the feature table and the item graph to read
    trainable = tune.with_parameters(
        trial, train=data.train, val=data.val, inputs=inputs, epochs=epochs
    )
    space = {
        name: tune.loguniform(1e-4, 1.0) for name in ("cca_weight", "uia_weight", "reg_weight")
    }
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(metric="best_recall@20", mode="max", num_samples=num_samples),
        run_config=tune.RunConfig(name="own_trainable", storage_path=str(out.resolve())),
    )
    best = tuner.fit().get_best_result()
    weights = ", ".join(f"{name} {value:.3g}" for name, value in best.config.items())
    print(f"best validation recall@20 {best.metrics['best_recall@20']:.4f}: {weights}")


if __name__ == "__main__":
    typer.run(main)
