"""Training: the loop, its sampler, its state on disk and its workers."""

from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig
from alignrec_pyg.training.loop import FitResult, fit
from alignrec_pyg.training.parallel import WorkerLostError
from alignrec_pyg.training.ray import fit_with_ray
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator

__all__ = [
    "CompleteTrainConfig",
    "FitResult",
    "RowAdam",
    "TrainConfig",
    "TrainingDivergedError",
    "TripletSampler",
    "WorkerLostError",
    "fit",
    "fit_with_ray",
    "seeded_generator",
]
