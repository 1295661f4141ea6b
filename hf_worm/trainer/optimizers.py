"""The optimizers and schedules of a run: fresh for each training and, if it is to restart, at the draw."""

import copy
from typing import Any

from transformers import Trainer

from hf_worm.trainer import compat

NAMES = ("optimizer", "lr_scheduler")  # attributes of a Trainer that a user may have made


class Optimizers:
    """Makes a trainer's optimizer and schedule anew; those that the user made go back to the state they came in.

    Args:
        trainer (`Trainer`): The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._given: dict[str, Any] | None = None  # from the first training on: states of what the user made

    @property
    def given(self) -> bool:
        """True if the user has made the optimizer."""
        return self.trainer.optimizer is not None if self._given is None else "optimizer" in self._given

    def renew(self) -> None:
        """Forget those of an earlier training: the next makes others."""
        if self._given is None:
            made = {name: getattr(self.trainer, name) for name in NAMES}
            self._given = {name: copy.deepcopy(one.state_dict()) for name, one in made.items() if one is not None}
        for name in NAMES:
            if not self._put_back(name):
                setattr(self.trainer, name, None)

    def restart(self, steps: int) -> None:
        """Go on within a training with a fresh optimizer, and a schedule over so many steps."""
        trainer = self.trainer
        if not self._put_back("optimizer"):
            compat.forget_optimizer(trainer)
            trainer.create_optimizer()
            trainer.optimizer = trainer.accelerator.prepare(trainer.optimizer)
        if not self._put_back("lr_scheduler"):
            trainer.lr_scheduler = None
            trainer.create_scheduler(steps, trainer.optimizer)
        for name in NAMES:
            setattr(trainer.callback_handler, name, getattr(trainer, name))

    def _put_back(self, name: str) -> bool:
        """Put what the user made into the state that it came in, if it is the user's."""
        if name not in (self._given or {}):
            return False
        getattr(self.trainer, name).load_state_dict(copy.deepcopy((self._given or {})[name]))
        return True
