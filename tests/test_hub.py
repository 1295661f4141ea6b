"""The model card; what goes to the Hub beside it, tests/test_hub_server.py tests with the Hub's own client."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from torch import nn
from training import QUERY_AND_KEY, SmallCNN, accuracy, checkpoints, examples, loaded_by, same_weights, worm_trainer
from transformers import BertForSequenceClassification, PreTrainedModel, Trainer, TrainingArguments

from hf_worm import TicketSearch, WormConfig, WormTrainer, WormTrainerMixin
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification
from hf_worm.report.card import card_section, extend_model_card
from hf_worm.report.loading import loading
from hf_worm.report.progress import Progress
from hf_worm.report.worm_report import build_report


@pytest.fixture
def card(bert: BertForSequenceClassification, tmp_path: Path) -> ModelCard:
    bert.config._name_or_path = "bert-of-this-test"
    trainer = worm_trainer(bert, tmp_path / "judge", eval_dataset=examples(), compute_metrics=accuracy)
    trainer.train()
    trainer.create_model_card(
        tasks="text-classification",
        dataset_tags="nyu-mll/glue",
        dataset="GLUE MRPC",
        dataset_args="mrpc",
        language="en",
    )
    return ModelCard.load(tmp_path / "judge" / "README.md")


def test_the_card_parses_and_is_tagged(card: ModelCard) -> None:
    assert {"worm", "early-bird", "pruning", "generated_from_trainer"} <= set(card.data.tags)
    assert card.data.language == ["en"]
    assert [result.metric_type for result in card.data.eval_results] == ["accuracy"]


def test_the_card_says_what_was_pruned_and_how(card: ModelCard) -> None:
    text = card.text
    assert "Base model: `bert-of-this-test`" in text
    assert "Pruned: 512 weights, 50.0% of query, key and " in text
    assert "the masks had converged after 3 epochs" in text
    assert all(stage in text for stage in ("| before the draw |", "| drawn |", "| retrained |"))
    assert "| 3 | 3.00 | 24 | " in text and "| yes: max < 0.5 |" in text, "a row for each observation"
    assert all(f"| `{name}` | 50.0% |" in text for name in QUERY_AND_KEY)
    assert 'BertForSequenceClassification.from_pretrained("judge")' in text
    assert "arXiv:2406.11872" in text and "vasudev2024worm" in text


def test_the_card_of_eb_train_is_of_eb_train(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig.eb_train(stopping_point=0.5))
    trainer.train()
    trainer.create_model_card()
    text = ModelCard.load(tmp_path / "README.md").text
    assert "by EB Train ([arXiv:1909.11957]" in text and "you2020earlybird" in text
    assert "2406.11872" not in text and "truncating" not in text, "nothing was truncated"
    assert "Fading" not in text


@pytest.mark.parametrize("pruned", [False, True])
def test_a_model_from_a_folder_was_not_trained_from_scratch(
    bert: BertForSequenceClassification, tmp_path: Path, pruned: bool
) -> None:
    bert.save_pretrained(tmp_path / "a-base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "a-base")
    trainer = worm_trainer(model, tmp_path / "out")
    if not pruned:
        trainer = WormTrainer(model=model, args=trainer.args, train_dataset=examples())
    trainer.train()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "This model is a fine-tuned version of `a-base` on " in card.text and "from scratch" not in card.text
    assert card.data.base_model is None, "there may be another of that name on the Hub"


def test_the_cards_table_of_training_has_both_phases(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    often = {"eval_strategy": "epoch", "logging_strategy": "epoch", "eval_dataset": examples(16)}
    trainer = worm_trainer(bert, tmp_path, **often)
    trainer.train()
    log = copy.deepcopy(trainer.state.log_history)
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    table = text.partition("### Training results")[2].partition("###")[0]
    assert [line.split("|")[3].strip() for line in table.strip().splitlines()[2:]] == ["8", "16", "24", "32"]
    assert sum("train_runtime" in entry for entry in log) == 1 and trainer.state.log_history == log


def test_a_card_without_retraining_has_the_results_of_the_drawn_model(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(stopping_point=0.5, retrain_epochs=0, prune_ratio=0.9)
    parts = {"eval_dataset": examples(), "compute_metrics": accuracy, "eval_strategy": "epoch"}
    trainer = worm_trainer(bert, tmp_path, config, **parts)
    trainer.train()
    trainer.create_model_card(dataset="mine", tasks="text-classification")
    drawn, before = (trainer.progress.metrics[stage]["loss"] for stage in ("drawn", "before_draw"))
    head = ModelCard.load(tmp_path / "README.md").text.partition("## Pruning")[0]
    assert f"- Loss: {drawn:.4f}" in head
    assert [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-2:] == [before, drawn]
    assert before != drawn


def test_a_parent_that_writes_no_card_is_left_alone(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Cardless(Trainer):
        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            pass

    class Worm(WormTrainerMixin, Cardless):
        pass

    trainer = Worm(model=bert, args=TrainingArguments(str(tmp_path), report_to=[]), worm_config=None)
    trainer.create_model_card()
    assert not (tmp_path / "README.md").exists()


def test_a_card_made_twice_has_the_section_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    trainer.train()
    trainer.create_model_card()
    trainer.create_model_card(tags=["mine"])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.count("## Pruning") == 1
    assert card.data.tags.count("worm") == 1
    assert "mine" in card.data.tags


def test_without_a_ticket_the_card_is_the_parents(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    trainer.search_ticket()
    trainer.create_model_card()
    assert "## Pruning" not in (tmp_path / "README.md").read_text()


class JudgeOfItsOwn(BertForSequenceClassification):
    """A model whose class is not transformers' own and whose checkpoints don't carry its code."""


def report_of(model: nn.Module, layers: list[str]) -> dict[str, Any]:
    search = TicketSearch(model, WormConfig(layers=layers, window=2))
    search.observe()
    assert search.observe().converged
    ticket = search.draw()
    ticket.apply_(model)
    return build_report(ticket, Progress(), model)


def test_the_card_of_a_faded_ticket_says_how_far_it_had_faded(cnn: SmallCNN) -> None:
    report = report_of(cnn, ["batchnorm"])
    assert "norm left" not in card_section("someone/cnn", report)
    report["config"]["truncation_target"] = report["parts"]["treatment"] = "fade"
    for seen, share in zip(report["search"]["observations"], (0.2, 0.0123), strict=True):
        seen["doomed_share"] = share
    text = card_section("someone/cnn", report)
    assert "Pruned while fine-tuning by WORM with fading" in text
    assert "is an addition of `hf_worm` to the paper's method" in text
    assert "| norm left |" in text and "still hold." in text
    assert "| 20.00% | no: nothing to compare |" in text and "| yes: norm left < 3% |" in text


@pytest.mark.parametrize(
    ("architecture", "lines"),
    [
        (
            BertForSequenceClassification,
            ["from transformers import BertForSequenceClassification", 'from_pretrained("{}")'],
        ),
        (JudgeOfItsOwn, ["from test_hub import JudgeOfItsOwn", 'from_pretrained("{}")']),
        (
            CifarResNetForImageClassification,
            [
                "from transformers import AutoModelForImageClassification",
                'from_pretrained("{}", trust_remote_code=True)',
            ],
        ),
    ],
)
def test_the_card_says_how_to_load_the_model(
    architecture: type[PreTrainedModel], lines: list[str], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    if issubclass(architecture, BertForSequenceClassification):
        model, layers = architecture(bert.config), ["query"]
    else:
        model, layers = architecture(CifarResNetConfig(width=2, depths=[1])), ["batchnorm"]
    report = json.loads(json.dumps(report_of(model, layers)))
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("# judge\n")
    extend_model_card(str(tmp_path), str(tmp_path), report)
    text = (tmp_path / "README.md").read_text()
    assert lines[0] + "\n" in text and lines[1].format(tmp_path) + "\n" in text
    loaded = loaded_by(text)
    assert type(loaded).__name__ == architecture.__name__  # of the code in the folder, or of hf_worm
    assert same_weights(loaded.state_dict(), model.state_dict())


def test_a_class_deep_in_a_package_is_imported_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CifarResNetForImageClassification, "_auto_class", None)
    model = CifarResNetForImageClassification(CifarResNetConfig(width=2, depths=[1]))
    assert loading(model) == {
        "module": "hf_worm.models.resnet",
        "class": "CifarResNetForImageClassification",
        "call": "CifarResNetForImageClassification.from_pretrained",
        "options": {},
    }


def test_a_class_of_the_training_script_is_not_imported(bert: BertForSequenceClassification) -> None:
    """The script is `__main__` while it trains, and something else for whoever reads the card."""
    report = report_of(bert, ["query"])
    at_hand = {"module": "__main__", "class": "Mine", "call": "Mine.from_pretrained", "options": {}}
    cut_out = {"module": "hf_worm", "class": "load_compact", "call": "load_compact", "options": {}}
    for loads in (at_hand, {**cut_out, "architecture": ["__main__", "Mine"]}):
        section = card_section("someone/mine", {**report, "loading": loads})
        assert "\n# Mine: as in the script that trained it\n" in section and "__main__" not in section


def test_weights_alone_are_said_to_be_that(cnn: SmallCNN) -> None:
    """The Trainer saves no more of a plain `nn.Module`: no call loads it."""
    section = card_section("someone/cnn", report_of(cnn, ["batchnorm"]))
    text = section.partition("### Loading")[2].partition("The masks")[0]
    assert text.strip() == "`model.safetensors` holds the weights alone, for a `SmallCNN` that is made as for training."


def test_what_an_earlier_push_still_reads_is_not_written_over(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = worm_trainer(bert, tmp_path / "run", save_strategy="epoch")
    trainer.train()
    checkpoint = checkpoints(tmp_path / "run")[-1]
    (checkpoint / "modeling.py").write_text("")
    trainer.push_in_progress = SimpleNamespace(is_done=lambda: False)
    trainer._push_from_checkpoint(str(checkpoint))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *(path.name for path in checkpoints(tmp_path / "run")),
        "worm_report.json",
    }
