"""What a run says of itself: the evaluations around the draw, its report, its model card."""

import json
from pathlib import Path
from typing import Any

from hf_worm.config import replace_file
from hf_worm.hub import REPORT_NAME, build_report, extend_model_card
from hf_worm.phases import PhasedTrainerMixin
from hf_worm.ticket import Ticket


class ReportingTrainerMixin(PhasedTrainerMixin):
    """Evaluates a ticket's stages, and writes what came of them.

    Attributes:
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ticket: Ticket | None = None
        self._stage: str | None = None  # name of the evaluation around the draw that is running
        super().__init__(*args, **kwargs)

    def _evaluate_stage(self, stage: str) -> None:
        if self.eval_dataset is None:
            return
        in_train = self.is_in_train
        self._stage, self.is_in_train = stage, True  # out of training, `fp16_full_eval` would cast the weights for good
        try:
            metrics = self.evaluate()
        finally:
            self._stage, self.is_in_train = None, in_train
        self.progress.metrics[stage] = {
            name.removeprefix("eval_"): value
            for name, value in metrics.items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second", "_preparation_time"))
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The parent's; the evaluations around the draw go by names of their own, such as `eval_drawn_accuracy`.

        The last one, after retraining, is the result of the run, and goes by the plain ones.
        """
        if self._stage in ("before_draw", "drawn"):
            logs = {name.replace("eval_", f"eval_{self._stage}_", 1): value for name, value in logs.items()}
        super().log(logs, start_time)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """The parent's card, and what the ticket prunes, how it was found, what it cost, and how to load the model."""
        super().create_model_card(
            language=language,
            license=license,
            tags=tags,
            model_name=model_name,
            finetuned_from=finetuned_from,
            tasks=tasks,
            dataset_tags=dataset_tags,
            dataset=dataset,
            dataset_args=dataset_args,
        )
        if self.ticket is not None and self.is_world_process_zero():
            extend_model_card(self._output_dir, self.hub_model_id or self.args.hub_model_id, self.report())

    def report(self) -> dict[str, Any]:
        """What the run did, as `worm_report.json` has it: metrics, phases, observations and the account of weights."""
        return build_report(self._drawn, self.progress, self._trained_model)

    def _write_report(self) -> None:
        if self.is_world_process_zero():
            replace_file(Path(self._output_dir) / REPORT_NAME, json.dumps(self.report(), indent=2) + "\n")

    @property
    def _drawn(self) -> Ticket:
        if self.ticket is None:
            raise RuntimeError("There is no ticket yet: call `search_ticket()` and `draw_ticket()` first.")
        return self.ticket
