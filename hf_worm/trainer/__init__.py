"""Search, draw and retraining in a `transformers.Trainer`."""

from hf_worm.trainer.callback import WormCallback
from hf_worm.trainer.worm import WormTrainer, WormTrainerMixin

__all__ = ["WormCallback", "WormTrainer", "WormTrainerMixin"]
