"""The three phases in a `transformers.Trainer`: search, draw, retraining."""

from hf_worm.trainer.worm import WormTrainer, WormTrainerMixin

__all__ = ["WormTrainer", "WormTrainerMixin"]
