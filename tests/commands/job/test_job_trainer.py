from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from small_command import SMALL, SmallArguments, build
from training import without_dropout
from transformers import BertForSequenceClassification, TrainerCallback, default_data_collator

from hf_worm.commands.job.command import main
from hf_worm.commands.job.parsing import parse
from hf_worm.commands.job.trainer import make_trainer


def parsed(*argv: object) -> SmallArguments:
    return parse(SMALL, ["--width=8", *map(str, argv)])


def made(model: BertForSequenceClassification, arguments: SmallArguments, **changes: Any) -> Any:
    parts = {"eval_dataset": None, "processing_class": None, "data_collator": default_data_collator}
    return make_trainer(
        arguments,
        None,
        model=model,
        train_dataset=Dataset.from_dict({"input_ids": [[1, 2]] * 4, "labels": [0, 1] * 2}),
        compute_metrics=lambda prediction: {},
        **{**parts, **changes},
    )


def test_the_trainer_has_the_runs_settings(bert: BertForSequenceClassification, tmp_path: Path):
    arguments = parsed(f"--output_dir={tmp_path}", "--prune_ratio=0.3")
    callback = TrainerCallback()
    trainer = made(bert, arguments, callbacks=[callback])
    assert trainer.args is arguments.training and trainer.worm_config is arguments.worm
    assert callback in trainer.callback_handler.callbacks
    assert trainer.processing_class is None


@pytest.mark.parametrize("flag", ["--dense", "--do_train=false"])
def test_there_is_no_search_without_pruning_or_training(bert: BertForSequenceClassification, tmp_path: Path, flag: str):
    assert made(bert, parsed(f"--output_dir={tmp_path}", flag)).search is None


def test_an_only_validation_split_goes_without_a_name(bert: BertForSequenceClassification, tmp_path: Path):
    arguments = parsed(f"--output_dir={tmp_path}")
    rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [0]})
    for given, taken in (
        (rows, rows),
        ({"": rows}, rows),
        ({"near": rows, "far": rows}, {"near": rows, "far": rows}),
        ({}, None),
        (None, None),
    ):
        assert made(bert, arguments, eval_dataset=given).eval_dataset == taken


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("momentum=0.9, nesterov=true", {"momentum": 0.9, "nesterov": True, "dampening": 0}),
        ("momentum=0.5,dampening=0.25", {"momentum": 0.5, "nesterov": False, "dampening": 0.25}),
        ("", {"momentum": 0, "nesterov": False, "dampening": 0}),
    ],
)
def test_sgd_has_the_momentum_that_it_is_given_in_both_phases(
    bert: BertForSequenceClassification, tmp_path: Path, given: str, expected: dict[str, Any]
):
    class Optimizers(TrainerCallback):
        def __init__(self) -> None:
            self.used: list[Any] = []
            self.seen: list[dict[str, Any]] = []

        def on_pre_optimizer_step(self, *args: Any, optimizer: Any, **kwargs: Any) -> None:
            self.used.append(optimizer)
            self.seen.append(
                {name: optimizer.param_groups[0][name] for name in expected} | {"lr": optimizer.defaults["lr"]}
            )

    optimizers = Optimizers()
    flags = ("--optim=sgd", f"--optim_args={given}", "--learning_rate=0.25", "--num_train_epochs=1", "--use_cpu")
    made(bert, parsed(f"--output_dir={tmp_path}", *flags, "--save_strategy=no"), callbacks=[optimizers]).train()
    assert optimizers.seen == [{**expected, "lr": 0.25}] * 2, "a step of the search, and one of the retraining"
    assert optimizers.used[0] is not optimizers.used[1]


def test_accumulated_batches_give_the_loss_and_the_gradients_of_one(tmp_path: Path):
    logs = []
    for size, accumulated in ((8, 1), (4, 2)):
        arguments = parsed(
            f"--output_dir={tmp_path}", f"--per_device_train_batch_size={size}", "--num_train_epochs=1", "--dense",
            f"--gradient_accumulation_steps={accumulated}", "--logging_steps=1", "--save_strategy=no",
        )  # fmt: skip
        trainer, _ = build(arguments, None)
        without_dropout(trainer.model)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-3)
    assert logs[1]["grad_norm"] == pytest.approx(logs[0]["grad_norm"], rel=1e-3)


def test_a_checkpoint_of_another_search_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--width=8", f"--output_dir={tmp_path}", "--save_strategy=epoch", "--num_train_epochs=1"]
    assert main(SMALL, [*flags, "--retrain_epochs=0"]) == 0
    for flag, message in (("--prune_ratio=0.3", "`prune_ratio=0.5`"), ("--layers=query", "query")):
        assert main(SMALL, [*flags, "--resume_from_checkpoint=last", flag]) == 2
        assert message in capsys.readouterr().err
    assert main(SMALL, [*flags, "--layers=neurons", f"--output_dir={tmp_path / 'drawn'}"]) == 0
    again = [*flags, "--layers=neurons", f"--output_dir={tmp_path / 'drawn'}", "--resume_from_checkpoint=last"]
    for flag, message in (("--retrain_schedule=continue", "`retrain_schedule='restart'`"), ("--compact", "`compact=")):
        assert main(SMALL, [*again, flag]) == 2
        assert message in capsys.readouterr().err
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    (checkpoint / "worm_state.safetensors").unlink()
    assert main(SMALL, [*flags, "--resume_from_checkpoint=last"]) == 2
    assert "worm_state.safetensors" in capsys.readouterr().err
