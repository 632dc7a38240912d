"""Training of encoders on the catalogue, before any recommender is trained."""

from alignrec_pyg.pretraining.clip import CLIPFinetuneResult, contrastive_loss, finetune_clip
from alignrec_pyg.pretraining.clip_config import CLIPFinetuneConfig

__all__ = ["CLIPFinetuneConfig", "CLIPFinetuneResult", "contrastive_loss", "finetune_clip"]
