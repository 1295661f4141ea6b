"""Short real runs, of every kind that `hf-worm show` may come upon."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from training import SmallCNN, accuracy, arguments, examples, images, worm_trainer
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

from hf_worm import WormConfig

EVALUATED = {"eval_dataset": examples(32), "compute_metrics": accuracy, "eval_strategy": "epoch", "logging_steps": 2}


class Kill(TrainerCallback):
    """Ends a run in the middle of a step."""

    def __init__(self, step: int, searching: bool) -> None:
        self.step, self.searching, self.trainer = step, searching, None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.searching == self.searching and state.global_step == self.step:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Runs:
    """Folders of runs.

    Attributes:
        bert: Query and key, three observations, one for each of 3 epochs of 8 steps, retrained for one; all is saved.
        bare: The same model by EB Train, globally pruned, sampled every 3 steps in 2 epochs, not converged; nothing is
            saved but what the trainer writes itself: no ticket, no log.
        cnn: BatchNorm channels; saved without its log, with a checkpoint of the last step, the 24th.
        searching: Killed at step 20 of the search, with checkpoints of the epochs' ends.
        retraining: Killed at the 7th step of the retraining, the 31st, with checkpoints every 5 steps.
        plain: A run of `Trainer`, of 2 epochs of 8 steps, whose last evaluation came after its log was saved.
        fading: As `bert`, with weights that fade from the second epoch on, in three.
    """

    bert: Path
    bare: Path
    cnn: Path
    searching: Path
    retraining: Path
    plain: Path
    fading: Path


def make_runs(model: BertForSequenceClassification, root: Path) -> Runs:
    """Train each of [`Runs`] in a folder of `root`; `model` stays as it is."""
    made = Runs(**{name: root / name for name in Runs.__dataclass_fields__})

    def bert() -> BertForSequenceClassification:
        return copy.deepcopy(model)

    torch.manual_seed(0)
    trainer = worm_trainer(bert(), made.bert, save_strategy="epoch", **EVALUATED)
    trainer.train()
    trainer.save_model()
    trainer.save_state()

    trainer = worm_trainer(bert(), made.fading, WormConfig.fade(stopping_point=0.5, fade_epochs=3.0), **EVALUATED)
    trainer.train()
    trainer.save_model()
    trainer.save_state()

    by_steps = WormConfig.eb_train(stopping_point=0.0, scope="global", sample_strategy="steps", sample_steps=3)
    changes = {**EVALUATED, "num_train_epochs": 2, "eval_strategy": "no"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        worm_trainer(bert(), made.bare, by_steps, **changes).train()

    settings = WormConfig(layers=["batchnorm"], stopping_point=0.5, window=2, truncate_from="start")
    changes = {**EVALUATED, "train_dataset": images(), "eval_dataset": images(32), "num_train_epochs": 2}
    trainer = worm_trainer(SmallCNN(), made.cnn, settings, save_strategy="steps", save_steps=15, **changes)
    trainer.train()
    trainer.save_model()

    for folder, kill, saving in (
        (made.searching, Kill(20, searching=True), {"save_strategy": "epoch"}),
        (made.retraining, Kill(31, searching=False), {"save_strategy": "steps", "save_steps": 5}),
    ):
        trainer = worm_trainer(bert(), folder, callbacks=[kill], **saving, **EVALUATED)
        kill.trainer = trainer
        with pytest.raises(KeyboardInterrupt):
            trainer.train()

    changes = {name: value for name, value in EVALUATED.items() if name not in ("eval_dataset", "compute_metrics")}
    trainer = Trainer(
        model=bert(),
        args=arguments(made.plain, num_train_epochs=2, save_strategy="epoch", **changes),
        train_dataset=examples(),
        eval_dataset=EVALUATED["eval_dataset"],
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_state()
    trainer.save_metrics("eval", trainer.evaluate())
    return made
