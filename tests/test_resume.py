"""A run that is resumed ends as the one that was never interrupted."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training import (
    QUERY_AND_KEY,
    arguments,
    checkpoints,
    examples,
    images,
    report,
    same_weights,
    weights,
    worm_trainer,
)
from transformers import BertForSequenceClassification
from transformers.trainer_utils import get_last_checkpoint

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer, load_compact

# Every checkpoint below holds what was logged so far; the mean loss since the last logging is the parent's to keep.
UNSTABLE = ("loss", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")


def log(trainer: WormTrainer) -> list[dict[str, Any]]:
    kept = [
        {k: v for k, v in entry.items() if k not in UNSTABLE and not k.endswith(("_runtime", "_per_second", "_time"))}
        for entry in trainer.state.log_history
    ]
    return [entry for entry in kept if set(entry) > {"epoch", "step"}]


def facts(folder: Path) -> dict[str, Any]:
    """The report but for the seconds, which no two runs share."""
    found = report(folder)
    for phase in ("search", "draw", "retrain"):
        found.get(phase, {}).pop("seconds", None)
    return found


@pytest.mark.parametrize(
    ("kind", "config", "changes"),
    [
        ("bert", {"retrain_epochs": 1.5}, {"save_steps": 4}),  # 8 steps an epoch: half of them are the last of an epoch
        ("bert", {"sample_strategy": "steps", "sample_steps": 3, "retrain_epochs": 0.5}, {"save_steps": 1}),
        ("bert", {"truncation_target": "update", "scope": "global"}, {"save_steps": 4, "num_train_epochs": 2.5}),
        (
            "bert",
            {"window": 4, "stopping_point": 0.0},
            {"save_steps": 7, "max_steps": 21, "gradient_accumulation_steps": 2},
        ),
        ("bert", {"truncation_target": "fade", "fade_epochs": 0.75}, {"save_steps": 3, "num_train_epochs": 4}),
        ("bert", {}, {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}),
        ("bert", {"truncate_from": "start", "margin": 0.0}, {"save_steps": 5}),  # the first one is of the first epoch
        ("cnn", {"layers": ["batchnorm"], "truncate_from": "start"}, {"save_steps": 5}),
        ("bert", {"retrain_schedule": "continue"}, {"save_steps": 4, "warmup_steps": 5, "max_grad_norm": 0.1}),
        (
            "bert",
            {"retrain_schedule": "continue", "sample_strategy": "steps", "sample_steps": 3},
            {"save_steps": 3, "max_steps": 21, "gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"},
        ),
    ],
    ids=[
        "epochs",
        "steps",
        "update-global",
        "fade",
        "accumulated-not-converged",
        "best-model",
        "from-the-start",
        "cnn",
        "continued",
        "continued-steps",
    ],
)
def test_resuming_from_any_checkpoint_of_either_phase_ends_the_same(
    bert: BertForSequenceClassification,
    cnn: nn.Module,
    tmp_path: Path,
    kind: str,
    config: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    model, rows = {"bert": (bert, examples()), "cnn": (cnn, images())}[kind]
    settings = WormConfig(**{"stopping_point": 0.5, "margin": 0.3, **config})
    changes = {"save_strategy": "steps", "logging_steps": 2, "train_dataset": rows, "eval_dataset": rows, **changes}
    whole = worm_trainer(copy.deepcopy(model), tmp_path / "whole", settings, **changes)
    output = whole.train()
    expected = weights(whole.model)
    saved = checkpoints(tmp_path / "whole")
    searched = report(tmp_path / "whole")["search"]["steps"]
    steps = [int(folder.name.partition("-")[2]) for folder in saved]
    assert min(steps) <= searched < max(steps) <= output.global_step, "checkpoints of both phases are put to the test"
    for checkpoint in saved:
        resumed = worm_trainer(copy.deepcopy(model), tmp_path / "resumed", settings, **changes)
        again = resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), expected), checkpoint.name
        assert resumed.search.history == whole.search.history, checkpoint.name
        assert resumed.ticket.history == whole.ticket.history
        assert log(resumed) == log(whole), checkpoint.name
        assert facts(tmp_path / "resumed") == facts(tmp_path / "whole"), checkpoint.name
        assert again.global_step == output.global_step
        shutil.rmtree(tmp_path / "resumed")


def save_under_older_names(model: BertForSequenceClassification, folder: Path) -> None:
    model.save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    older = {re.sub(r"(LayerNorm\.)weight$", r"\1gamma", name): weight for name, weight in saved.items()}
    save_file(older, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("compact", [False, True], ids=["zeros", "compact"])
def test_weights_that_are_saved_under_older_names_come_back(
    bert: BertForSequenceClassification, tmp_path: Path, compact: bool
) -> None:
    """As those of `bert-base-uncased` are: they keep the names that the file had from which they were loaded."""
    save_under_older_names(bert, tmp_path / "start")

    def trainer(name: str, **changes: Any) -> WormTrainer:
        model = BertForSequenceClassification.from_pretrained(tmp_path / "start")
        settings = {"layers": ["neurons", "heads"], "compact": True} if compact else {}
        config = WormConfig(stopping_point=0.9, retrain_epochs=2, **settings)
        changes = {"save_strategy": "epoch", "eval_dataset": examples(), **changes}
        return worm_trainer(model, tmp_path / name, config, **changes)

    whole = trainer("whole")
    whole.train()
    for checkpoint in checkpoints(tmp_path / "whole"):
        assert "bert.embeddings.LayerNorm.gamma" in load_file(checkpoint / "model.safetensors")
        resumed = trainer(f"from {checkpoint.name}")
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name

    worst = {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # or the best would be the last
    other = trainer("other", eval_strategy="epoch", load_best_model_at_end=True, **worst)
    other.train()
    assert Path(other.state.best_model_checkpoint) == checkpoints(tmp_path / "other")[-2]
    best = load_compact(other.state.best_model_checkpoint)
    assert same_weights(weights(other.model), weights(best))


@pytest.mark.parametrize("change", ["head", "fewer", "more"])
def test_a_changed_model_under_older_names_comes_back(
    change: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """The configuration describes another model than the one that a script has made of it."""
    save_under_older_names(bert, tmp_path / "start")

    def changed() -> BertForSequenceClassification:
        model = BertForSequenceClassification.from_pretrained(tmp_path / "start")
        torch.manual_seed(0)
        if change == "head":
            model.classifier = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        elif change == "fewer":
            model.bert.encoder.layer = model.bert.encoder.layer[:1]
        else:
            model.extra = torch.nn.Linear(16, 2)
        return model

    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch"}
    whole = worm_trainer(changed(), tmp_path / "whole", eval_dataset=examples(), **best)
    whole.train()
    for checkpoint in checkpoints(tmp_path / "whole"):
        resumed = worm_trainer(changed(), tmp_path / "whole", eval_dataset=examples(), **best)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name


def test_without_a_config_the_parent_class_loads(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(*_: object) -> bool:
        raise AssertionError("a run without a config loads as the Trainer does")

    monkeypatch.setattr("hf_worm.trainer.worm.load_renamed", ours)
    kept = arguments(tmp_path, save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True)
    rows = {"train_dataset": examples(), "eval_dataset": examples()}
    whole = WormTrainer(model=copy.deepcopy(bert), args=kept, worm_config=None, **rows)
    whole.train()
    first = str(checkpoints(tmp_path)[0])
    resumed = WormTrainer(model=copy.deepcopy(bert), args=kept, worm_config=None, **rows)
    resumed.train(resume_from_checkpoint=first)
    assert same_weights(weights(resumed.model), weights(whole.model))


def test_a_search_that_forgets_its_window_ends_elsewhere(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of `test_resuming_from_any_checkpoint_of_either_phase_ends_the_same`."""
    whole = worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch")
    whole.train()
    monkeypatch.setattr(TicketSearch, "load_state_dict", lambda self, state: None)
    resumed = worm_trainer(copy.deepcopy(bert), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoints(tmp_path)[1]))
    assert not same_weights(weights(resumed.model), weights(whole.model))
    assert resumed.search.history != whole.search.history


def test_checkpoints_of_both_phases_live_side_by_side(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    worm_trainer(bert, tmp_path, save_strategy="epoch").train()
    assert [folder.name for folder in checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (8, 16, 24, 32)]
    assert Path(get_last_checkpoint(str(tmp_path))).name == "checkpoint-32"
    state = json.loads((tmp_path / "checkpoint-32" / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"], state["max_steps"]) == (32, 4.0, 32)
    assert not (tmp_path / "checkpoint-24" / "ticket.safetensors").exists()
    assert Ticket.from_pretrained(tmp_path / "checkpoint-32").sparsity == 0.5


def test_true_resumes_from_the_last_checkpoint(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    whole = worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="steps", save_steps=5)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-32")
    resumed = worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="steps", save_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(weights(resumed.model), weights(whole.model))


def test_a_checkpoint_may_be_a_path(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch").train()
    resumed = worm_trainer(bert, tmp_path, save_strategy="epoch")
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-8")
    assert resumed.progress.steps == {"search": 24, "retrain": 8}
    assert len(resumed.search.history) == 3 and resumed.state.log_history[-1]["step"] == 32
    plain = WormTrainer(model=bert, args=arguments(tmp_path), train_dataset=examples())
    plain.train(resume_from_checkpoint=tmp_path / "checkpoint-8")
    assert plain.state.global_step == 40


def test_a_longer_retraining_goes_on_where_the_shorter_one_ended(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch").train()
    checkpoint = tmp_path / "checkpoint-32"
    longer = worm_trainer(copy.deepcopy(bert), tmp_path, WormConfig(stopping_point=0.5, retrain_epochs=3))
    assert longer.train(resume_from_checkpoint=checkpoint).global_step == 48
    assert longer.ticket.config.retrain_epochs == 3
    with pytest.raises(ValueError, match="checkpoint-32 is of the retraining"):
        longer.search_ticket(checkpoint)
    for changes in ({"retrain_schedule": "continue"}, {"compact": True, "layers": ["neurons"]}):
        other = worm_trainer(copy.deepcopy(bert), tmp_path, WormConfig(stopping_point=0.5, **changes))
        with pytest.raises(ValueError, match=f"of a retraining with `{next(iter(changes))}="):
            other.train(resume_from_checkpoint=checkpoint)


def test_a_longer_search_goes_on_where_the_shorter_one_ended(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    settings = WormConfig(stopping_point=0.5, retrain_epochs=0)
    short = worm_trainer(copy.deepcopy(bert), tmp_path, settings, num_train_epochs=2, save_strategy="epoch")
    with pytest.warns(UserWarning, match="not converged"):
        short.train()
    longer = worm_trainer(copy.deepcopy(bert), tmp_path, settings, num_train_epochs=4)
    longer.train(resume_from_checkpoint=True)
    assert longer.ticket.converged
    assert [seen.index for seen in longer.search.history] == [0, 1, 2]


# What can't be resumed from says so.


def test_nothing_to_resume_from(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no checkpoint in .*nowhere to resume from"):
        worm_trainer(bert, tmp_path / "nowhere").train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_kind_of_run(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    plain = WormTrainer(
        model=copy.deepcopy(bert),
        args=worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch").args,
        train_dataset=examples(),
    )
    plain.train()
    with pytest.raises(
        ValueError, match=r"holds no `worm_state.safetensors`, so it is no checkpoint of a run that prunes"
    ):
        worm_trainer(bert, tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("size", [0, 7, 200, -100])
def test_a_damaged_state(bert: BertForSequenceClassification, tmp_path: Path, size: int) -> None:
    worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch").train()
    path = checkpoints(tmp_path)[1] / "worm_state.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"Can't resume from .*checkpoint-16: `worm_state.safetensors` is damaged"):
        worm_trainer(bert, tmp_path).train(resume_from_checkpoint=str(path.parent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune_ratio": 0.25}, "`prune_ratio=0.5`, this one has 0.25"),
        ({"window": 4}, "`window=3`, this one has 4"),
        ({"scope": "global"}, "`scope='layer'`, this one has 'global'"),
        ({"layers": ["query=0.25", "key"]}, r"this one has \['query=0.25', 'key'\]: with other ratios"),
        ({"layers": ["query"]}, "representative layers of this model are not those of the saved search"),
    ],
)
def test_other_settings(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    worm_trainer(copy.deepcopy(bert), tmp_path, save_strategy="epoch").search_ticket()
    other = worm_trainer(bert, tmp_path, WormConfig(**{"stopping_point": 0.5, **changes}))
    with pytest.raises(ValueError, match=message):
        other.train(resume_from_checkpoint=True)
    assert QUERY_AND_KEY[0] in dict(bert.named_parameters())
