"""A command from end to end: parse, build, train or evaluate, save, print the result table."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from hf_worm.checkpoint.resume import load_search
from hf_worm.checkpoint.whole import newest_finished
from hf_worm.commands.job.arguments import Arguments, D, M
from hf_worm.commands.job.output_dir import clear, find_checkpoint
from hf_worm.commands.job.parsing import CommandLine, parse
from hf_worm.commands.job.task import Task
from hf_worm.commands.output import refuse
from hf_worm.report.terminal import plain_table, result_table, trade_off_text
from hf_worm.trainer import WormTrainer


@dataclass(frozen=True, kw_only=True)
class Command(CommandLine[M, D]):
    """A command: its name, its arguments and their defaults, and the functions that make its trainer and its card.

    Args:
        build (`Callable`): The trainer and the task, from the arguments and the checkpoint to resume from, if any.
        card (`Callable`): What `create_model_card` is given, from the arguments and the task.
        inputs (`Callable`, *optional*): The folders and files that a run reads, from the arguments; `None` among them.
    """

    build: Callable[[Arguments[M, D], str | None], tuple[WormTrainer, Task]]
    card: Callable[[Arguments[M, D], Task], dict[str, Any]]
    inputs: Callable[[Arguments[M, D]], Iterable[str | None]] = lambda arguments: ()


def main(command: Command[M, D], argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        command (`Command`): Which one.
        argv (`Sequence[str]`, *optional*): What follows its name; by default the arguments of this process.

    Returns:
        `int`: The exit status. 0: done. 2: the arguments, the data or the model won't do; one line on stderr says why.
        130: interrupted.
    """
    folder = None
    try:
        try:
            arguments = parse(command, sys.argv[1:] if argv is None else argv)
            overwrite = arguments.run.overwrite_output_dir
            checkpoint = find_checkpoint(arguments.training, overwrite, command.inputs(arguments))
            trainer, task = command.build(arguments, checkpoint)
            if arguments.training.do_train:
                _refuse_unknown_metric(trainer, task)
            if arguments.run.trade_off and trainer.search is not None:
                trainer.search.require_speedups(arguments.run.trade_off)
                if checkpoint is not None:
                    load_search(checkpoint)  # raises where the ticket is drawn
        except (ValueError, OSError, ImportError) as error:  # the last: a setting needs a library that is not there
            return refuse(command.program, error)
        folder = str(arguments.training.output_dir)
        run(command, trainer, task, arguments, checkpoint)
    except KeyboardInterrupt:
        print(f"\n{command.program}: interrupted.{_how_to_go_on(folder)}", file=sys.stderr)
        return 130
    return 0


def run(
    command: Command[M, D], trainer: WormTrainer, task: Task, arguments: Arguments[M, D], checkpoint: str | None
) -> None:
    """Train or evaluate, save what came of it, and print the result table.

    Args:
        command (`Command`): Whose run it is.
        trainer (`WormTrainer`): From its `build`.
        task (`Task`): What it is for.
        arguments (`Arguments`): Of the run.
        checkpoint (`str`, *optional*): What to resume from.
    """
    training = arguments.training
    if not training.do_train:
        metrics = trainer.evaluate()
        _save_metrics(trainer, "eval", metrics)
        _print(trainer, plain_table("evaluated", _of_task(metrics, task)))
        return
    if arguments.run.overwrite_output_dir:
        with training.main_process_first(local=False, desc="clearing the output folder"):
            if trainer.is_world_process_zero():
                clear(Path(str(training.output_dir)))
    if arguments.run.trade_off:
        trainer.search_ticket(checkpoint, save=True)
        points = trainer.trade_off(arguments.run.trade_off)
        _print(trainer, trade_off_text(points, str(training.output_dir)))
        return
    output = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    _save_metrics(trainer, "train", output.metrics)
    dense = arguments.worm is None
    metrics, table = _dense_result(trainer, task, output.metrics) if dense else _pruned_result(trainer)
    if training.do_eval:
        _save_metrics(trainer, "eval", metrics)
    publish = trainer.push_to_hub if training.push_to_hub else trainer.create_model_card
    publish(**command.card(arguments, task))
    _print(trainer, table)


def _dense_result(trainer: WormTrainer, task: Task, trained: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Evaluate a model that was trained without pruning: its metrics, and the table of the run."""
    metrics = trainer.evaluate() if trainer.args.do_eval else {}
    seconds = trained.get("train_runtime")
    return metrics, plain_table("fine-tuned", _of_task(metrics, task), trainer.state.epoch, seconds)


def _pruned_result(trainer: WormTrainer) -> tuple[dict[str, float], str]:
    """Take the metrics of a pruned model from its last evaluation, and the table of the run from its report."""
    report = trainer.report()
    last = list(report["metrics"].values())[-1] if report["metrics"] else {}
    return {f"eval_{name}": value for name, value in last.items()}, result_table(report)


def _refuse_unknown_metric(trainer: WormTrainer, task: Task) -> None:
    """Refuse a `metric_for_best_model` that there won't be: the Trainer says so after the first epoch."""
    wanted, splits = trainer.args.metric_for_best_model, trainer.eval_dataset
    if not trainer.args.load_best_model_at_end or wanted is None:
        return
    prefixes = [f"{name}_" for name in splits] if isinstance(splits, dict) else [""]
    known = [prefix + metric for prefix in prefixes for metric in (*task.metrics, "loss")]
    if wanted.removeprefix("eval_") not in known:
        raise ValueError(f"`metric_for_best_model` must be one of {', '.join(known)}, got {wanted!r}.")


def _of_task(metrics: Mapping[str, float], task: Task) -> dict[str, float]:
    """Pick the task's metrics and the loss, by their plain names, without the evaluation's times."""
    return {
        name.removeprefix("eval_"): value for name, value in metrics.items() if name.endswith((*task.metrics, "loss"))
    }


def _save_metrics(trainer: WormTrainer, split: str, metrics: dict[str, float]) -> None:
    if metrics:  # a resumed run that had no step left has none of training
        trainer.log_metrics(split, metrics)
        trainer.save_metrics(split, metrics)


def _print(trainer: WormTrainer, table: str) -> None:
    if trainer.is_world_process_zero():
        print(f"\n{table}")


def _how_to_go_on(folder: str | None) -> str:
    if folder is None:
        return ""
    last: str | None = get_last_checkpoint(folder) if os.path.isdir(folder) else None  # type: ignore[no-untyped-call]
    if last is None:
        return " There is no checkpoint yet to go on from."
    newest = newest_finished(Path(folder))
    if newest is None:
        return " There is no whole checkpoint yet to go on from: `--overwrite_output_dir` begins anew."
    name = "last" if newest == Path(last) else newest
    return f" To go on: the same command with `--resume_from_checkpoint {name}`, without `--overwrite_output_dir`."
