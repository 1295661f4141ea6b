"""Going on with a smaller model: what the ticket prunes is cut out between the draw and the retraining."""

import inspect
import warnings
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from hf_worm.compact import try_cut
from hf_worm.report.account import account
from hf_worm.report.progress import load_state
from hf_worm.report.speed import LARGE_BATCH, Batch, costs, forward
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer.reporting import ReportingTrainerMixin


class CuttingTrainerMixin(ReportingTrainerMixin):
    """Cuts what the ticket prunes out of the model, and measures what that gained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rest: Ticket | None = None  # of a model that was made smaller: what could not be cut out
        super().__init__(*args, **kwargs)

    @property
    def compacted(self) -> bool:
        """Whether what the ticket prunes has been cut out of the model."""
        return self._rest is not None

    def _load_dense(self, search: TicketSearch, checkpoint: str) -> None:
        """Have the search, of the dense model, be that of a checkpoint of the retraining: it is cut out once more."""
        try:
            search.load_state_dict(load_state(checkpoint)[1])
        except ValueError as error:
            raise ValueError(
                f"{checkpoint} is of a retraining after what was pruned had been cut out, which is done once more: "
                f"resume it with the dense model that the run began with. {error}"
            ) from error

    def _require_dense(self, checkpoint: str) -> None:
        if self.compacted:
            raise ValueError(
                f"{checkpoint} is of a search in the dense model, and this trainer's model is the compact one by now. "
                "Resume with a new trainer that is given the dense model."
            )

    def _try_cut(self, search: TicketSearch) -> None:
        """Cut units out of a copy, and raise before the search where the rest of the model does not follow."""
        batch = self._batch()
        with self.accelerator.autocast():
            try_cut(self._trained_model, search.config.layers, lambda model: forward(model, batch))

    def _cut_out(self) -> None:
        """Go on with a smaller copy of the model."""
        dense = self._trained_model
        smaller = self._drawn.compact(dense)
        self._dense_account = account(self._drawn, dense)
        self.model = self.model_wrapped = self.callback_handler.model = smaller
        self._rest = self._drawn.rest(smaller)

    def _measure(self, dense: nn.Module, drawn: nn.Module) -> None:
        """Sizes and times of the three models on rows of the training set.

        The first process measures, while others have nothing to do: they would share its cores.
        """
        batch = self._batch()  # of which all processes take theirs
        if not self.is_world_process_zero():
            return
        rows = min(LARGE_BATCH, self.args.per_device_train_batch_size)
        models = {"dense": dense, "drawn": drawn, "compact": self._trained_model}
        try:
            with self.accelerator.autocast():
                self.progress.costs = costs(models, batch, rows)
        except Exception as error:  # out of memory, or rows that can't be repeated: the run goes on without its times
            warnings.warn(
                f"What the smaller model gains was not measured: {type(error).__name__}: {error}", stacklevel=2
            )

    def _batch(self) -> Batch:
        """Rows of the training set; no random state changes.

        With what the model's `forward` names alone, and without labels that it need not have (but for models of an
        encoder and a decoder, which make the decoder's input of them).
        """
        with self._own_random_numbers():
            batch = self._prepare_inputs(next(iter(self.get_train_dataloader())))
        model = cast(PreTrainedModel, self._trained_model)  # another is refused
        taken = inspect.signature(model.forward).parameters
        left_out = [
            name
            for name in self.label_names
            if name in taken and taken[name].default is None and not model.config.is_encoder_decoder
        ]
        return {name: value for name, value in batch.items() if name in taken and name not in left_out}
