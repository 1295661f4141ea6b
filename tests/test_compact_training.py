"""`WormConfig(compact=True)`: the smaller model is what is retrained, saved, resumed, reported and pushed."""

import copy
import gc
import json
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from training import accuracy, arguments, checkpoints, examples, report, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_worm import Ticket, WormConfig, WormTrainer, load_compact
from hf_worm.commands.main import main
from hf_worm.commands.show.reading import read_run
from hf_worm.report.sentences import gains, pruned_line
from hf_worm.report.terminal import cost_lines, result_table, run_text

EVALUATED = {"eval_dataset": examples(32), "compute_metrics": accuracy}


def compact_trainer(
    bert: BertForSequenceClassification,
    folder: Path,
    layers: list[str],
    changes: dict[str, Any] | None = None,
    **rest: Any,
) -> WormTrainer:
    config = WormConfig(layers=layers, stopping_point=0.9, margin=0.1, compact=True, **(changes or {}))
    return worm_trainer(copy.deepcopy(bert), folder, config, **{**EVALUATED, **rest})


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.stack([row["input_ids"] for row in examples(8)])).logits


def test_a_partly_frozen_model_is_cut_where_it_trains(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    bert.bert.embeddings.requires_grad_(False)
    bert.bert.encoder.layer[0].requires_grad_(False)
    frozen = {name: weight.clone() for name, weight in bert.named_parameters() if not weight.requires_grad}
    with pytest.raises(ValueError, match="frozen"):
        compact_trainer(bert, tmp_path, ["neurons"])
    trainer = compact_trainer(bert, tmp_path, ["neurons@*.layer.1.*"])
    trainer.train()
    trainer.save_model()
    loaded = dict(load_compact(tmp_path).named_parameters())
    assert all(torch.equal(loaded[name], weight) for name, weight in frozen.items())
    assert loaded["bert.encoder.layer.1.intermediate.dense.weight"].shape[0] == 16
    assert "of `neurons@*.layer.1.*`" in pruned_line(trainer.report()["account"], trainer.worm_config.layers)


def test_a_ratio_that_cuts_out_nothing_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Nothing is pruned"), pytest.raises(ValueError, match="would cut out nothing"):
        compact_trainer(bert, tmp_path, ["heads=0.2"])


@pytest.mark.parametrize("layers", [["neurons"], ["heads"], ["neurons", "heads"]], ids="+".join)
def test_a_run_leaves_a_smaller_model_that_loads(
    bert: BertForSequenceClassification, tmp_path: Path, layers: list[str]
) -> None:
    trainer = compact_trainer(bert, tmp_path, layers, {"retrain_epochs": 2.0})
    given = trainer.model
    trainer.train()
    trainer.save_model()
    assert trainer.model is not given and trainer.compacted
    dense, left = (sum(p.numel() for p in model.parameters()) for model in (given, trainer.model))
    assert left < dense
    assert not same_weights(weights(trainer.model), weights(trainer.ticket.compact(given))), "it was not retrained"
    assert torch.equal(logits(load_compact(tmp_path)), logits(trainer.model))
    if layers == ["neurons"]:
        plain = BertForSequenceClassification.from_pretrained(tmp_path)
        assert plain.config.intermediate_size == 16
        assert torch.equal(logits(plain), logits(trainer.model))
    written = report(tmp_path)
    assert set(written["metrics"]) == {"before_draw", "drawn", "retrained"}
    account = written["account"]
    assert account["model_weights"] == dense and account["compact_weights"] == left
    assert account["pruned_weights"] == dense - left
    assert "cut out" in account["note"]
    loaded = Ticket.from_pretrained(tmp_path)
    assert all(torch.equal(mask, trainer.ticket.masks[name]) for name, mask in loaded.masks.items())


def test_neurons_and_heads_by_ratios_of_their_own(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons=0.75", "heads=0.5"])
    trainer.train()
    trainer.save_model()
    block = load_compact(tmp_path).bert.encoder.layer[0]
    assert block.intermediate.dense.out_features == 8 and block.attention.self.num_attention_heads == 1
    assert result_table(report(tmp_path)).startswith("WORM (neurons 0.75, heads 0.5, r 0.003, s 0.9")


def test_the_smaller_model_starts_where_the_drawn_one_stood(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons", "heads"], {"retrain_epochs": 0.0})
    given = trainer.model
    trainer.train()
    torch.testing.assert_close(logits(trainer.model), logits(given), rtol=1e-5, atol=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(report(tmp_path)["metrics"]["drawn"]["loss"], rel=1e-5)


def test_a_given_ticket_is_cut_out_and_retrained(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    found = worm_trainer(copy.deepcopy(bert), tmp_path / "found", WormConfig(layers=["neurons"], stopping_point=0.5))
    found.train()
    trainer = compact_trainer(bert, tmp_path / "given", ["neurons"])
    trainer.ticket = found.ticket
    trainer.retrain()
    trainer.save_model()
    assert trainer.compacted and trainer.model.config.intermediate_size == 16
    assert torch.equal(logits(load_compact(tmp_path / "given")), logits(trainer.model))
    assert "the masks had converged in another run" in ModelCard.load(card(trainer)).text
    single = compact_trainer(bert, tmp_path / "single", ["neurons"])
    single.ticket = Ticket({}, WormConfig())
    with pytest.raises(ValueError, match="representative layers"):
        single.retrain()


def test_a_control_with_random_units(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig.eb_train(layers=["neurons"], stopping_point=0.9)
    trainer, control = (worm_trainer(copy.deepcopy(bert), tmp_path / name, config) for name in ("found", "control"))
    trainer.train()
    control.search_ticket()
    control.ticket = trainer.ticket.shuffled(seed=1)
    control.retrain()
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(control.model.get_parameter(name).any(dim=1), control.ticket.masks[name])
    assert not torch.equal(control.ticket.masks[name], trainer.ticket.masks[name])
    assert control.progress.steps == trainer.progress.steps
    controlled, found = report(tmp_path / "control"), report(tmp_path / "found")
    assert (controlled["account"], controlled["layers"]) == (found["account"], found["layers"])


def card(trainer: WormTrainer) -> Path:
    trainer.create_model_card()
    return Path(trainer.args.output_dir) / "README.md"


@pytest.mark.parametrize("target", ["gradient", "fade"])
def test_resuming_from_any_checkpoint_ends_the_same(
    bert: BertForSequenceClassification, tmp_path: Path, target: str
) -> None:
    changes = {"truncation_target": target, "retrain_epochs": 2.0}
    settings = {"save_strategy": "steps", "save_steps": 5}
    whole = compact_trainer(bert, tmp_path / "whole", ["neurons", "heads"], changes, **settings)
    whole.train()
    searched = report(tmp_path / "whole")["search"]["steps"]
    steps = [int(folder.name.partition("-")[2]) for folder in checkpoints(tmp_path / "whole")]
    assert min(steps) < searched < max(steps), "both phases are put to the test"
    for checkpoint in checkpoints(tmp_path / "whole"):
        resumed = compact_trainer(bert, tmp_path / "resumed", ["neurons", "heads"], changes, **settings)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name
        assert resumed.search.history == whole.search.history
        again, first = report(tmp_path / "resumed"), report(tmp_path / "whole")
        assert {name: again[name] for name in ("account", "metrics", "layers", "loading")} == {
            name: first[name] for name in ("account", "metrics", "layers", "loading")
        }


def test_the_best_of_the_smaller_models_is_kept(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    worst = {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # or the best would be the last
    saving = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = compact_trainer(bert, tmp_path, ["neurons", "heads"], {"retrain_epochs": 3.0}, **worst, **saving)
    trainer.train()
    best = load_compact(trainer.state.best_model_checkpoint)
    assert same_weights(weights(trainer.model), weights(best))
    assert trainer.state.best_model_checkpoint != get_last_checkpoint(str(tmp_path))


def test_the_card_loads_it(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = compact_trainer(bert, tmp_path / "heads", ["heads"])
    trainer.train()
    trainer.create_model_card()
    text = ModelCard.load(tmp_path / "heads" / "README.md").text
    assert "from hf_worm import load_compact" in text and 'load_compact("heads")' in text
    gone = trainer.report()["account"]
    assert gone["pruned_weights"] == gone["model_weights"] - gone["compact_weights"] > 0
    assert f"Cut out: {gone['pruned_weights']:,} weights, {gone['share_of_model']:.1%} of the model's" in text
    assert "ticket.hold" not in text, "there are no zeros to hold"
    shown = " ".join(run_text(read_run(str(tmp_path / "heads"))).split())
    assert pruned_line(gone, ["heads"]) in shown and pruned_line(gone, ["heads"]).startswith("Cut out:")
    assert "`hf_worm.load_compact` loads it" in shown
    trainer = compact_trainer(bert, tmp_path / "neurons", ["neurons"])
    trainer.train()
    trainer.create_model_card()
    text = ModelCard.load(tmp_path / "neurons" / "README.md").text
    assert 'BertForSequenceClassification.from_pretrained("neurons")' in text and "load_compact" not in text


class Mine(BertForSequenceClassification):
    """A class that Transformers does not have."""


def test_the_card_imports_a_class_of_ones_own(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = compact_trainer(Mine(bert.config), tmp_path, ["heads"])
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    code = ModelCard.load(tmp_path / "README.md").text.split("```python\n")[1].split("```")[0]
    assert f"from {__name__} import Mine" in code
    loaded: dict[str, Any] = {}
    exec(code.replace(f'"{tmp_path.name}"', repr(str(tmp_path))), loaded)
    assert type(loaded["model"]) is Mine and same_weights(weights(loaded["model"]), weights(trainer.model))


def test_a_ticket_is_cut_out_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons"])
    trainer.train()
    with pytest.raises(RuntimeError, match="drawn already: begin anew with `search_ticket"):
        trainer.draw_ticket()


def test_the_searchs_optimizer_takes_no_room_beside_three_models(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons"])
    trainer.search_ticket()
    optimizer = weakref.ref(trainer.optimizer.optimizer)
    told = []

    def measure(*models: Any) -> dict[str, Any]:
        gc.collect()
        told.append(optimizer())
        return {}

    monkeypatch.setattr("hf_worm.trainer.cutting.measure", measure)
    trainer.draw_ticket()
    assert told == [None]


def test_a_retraining_is_not_resumed_with_the_smaller_model(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    compact_trainer(bert, tmp_path, ["neurons"], save_strategy="epoch").train()
    checkpoint = get_last_checkpoint(str(tmp_path))
    trainer = compact_trainer(load_compact(checkpoint), tmp_path, ["neurons"])
    with pytest.raises(ValueError, match="resume it with the dense model that the run began with"):
        trainer.train(resume_from_checkpoint=checkpoint)


def test_a_search_is_not_resumed_in_the_smaller_model(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons"], save_strategy="epoch")
    trainer.train()
    with pytest.raises(ValueError, match=r"checkpoint-8 is of a search in the dense model.*Resume with a new trainer"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))


def test_callbacks_see_the_smaller_model(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    seen = []

    class Watch(TrainerCallback):
        def on_evaluate(self, *_: Any, model: Any = None, **__: Any) -> None:
            seen.append(model)

    trainer = compact_trainer(bert, tmp_path, ["neurons"], {"retrain_epochs": 0.0}, callbacks=[Watch()])
    given = trainer.model
    trainer.train()
    trainer.evaluate()
    assert seen[-2] is given and seen[-1] is trainer.model is not given


class Gated(BertForSequenceClassification):
    """Depends on the number of neurons, as no rows and columns of weights say."""

    by = 1.0

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        outputs = super().forward(input_ids, labels=labels)
        outputs.logits = outputs.logits * (1 + self.by * self.bert.encoder.layer[0].intermediate.dense.out_features)
        return outputs


class HardlyGated(Gated):
    """By 1.6 % at half of the neurons."""

    by = 0.001


class Rigid(BertForSequenceClassification):
    """Takes no other number of neurons than 32, and no rows without labels."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        assert self.bert.encoder.layer[0].intermediate.dense.out_features == 32
        return super().forward(input_ids, labels=labels)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(Gated, "computes something else"), (HardlyGated, "computes something else"), (Rigid, "does not run")],
)
def test_a_model_whose_parts_do_not_follow_is_refused_before_the_search(
    kind: type, what: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = compact_trainer(kind(bert.config), tmp_path, ["neurons"])
    with pytest.raises(ValueError, match=f"Cutting neurons out of a `{kind.__name__}` leaves a model that {what}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_trying_the_cut_changes_nothing(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = compact_trainer(bert, tmp_path / "tried", ["neurons", "heads"])
    tried.train()
    monkeypatch.setattr("hf_worm.trainer.cutting.try_cut", lambda *_: None)
    monkeypatch.setattr("hf_worm.trainer.cutting.rows", lambda *_: {})
    monkeypatch.setattr("hf_worm.report.speed.costs", lambda *_: {})
    plain = compact_trainer(bert, tmp_path / "plain", ["neurons", "heads"])
    plain.train()
    assert same_weights(weights(tried.model), weights(plain.model))


def soft_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs["logits"], labels)


def test_a_loss_of_ones_own_and_labels_that_the_model_does_not_take(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    rows = [{**row, "labels": [0.1, 0.9] if row["labels"] else [0.9, 0.1]} for row in examples()]
    config = WormConfig(layers=["neurons", "heads"], stopping_point=0.9, compact=True)
    trainer = worm_trainer(
        copy.deepcopy(bert), tmp_path, config, train_dataset=rows, compute_loss_func=soft_loss, eval_dataset=rows[:8]
    )
    trainer.train()
    assert report(tmp_path)["costs"]["size"]["compact"]["parameters"] < bert.num_parameters()


def test_without_memory_to_measure_the_run_goes_on(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr("hf_worm.report.speed.costs", no_memory)
    trainer = compact_trainer(bert, tmp_path, ["neurons"])
    with pytest.warns(UserWarning, match="was not measured: OutOfMemoryError: tried to allocate 20 GiB"):
        trainer.train()
    trainer.create_model_card()
    assert "costs" not in report(tmp_path) and "retrained" in report(tmp_path)["metrics"]


def test_measuring_is_no_part_of_the_draw(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_worm.report.speed.costs", lambda *_: time.sleep(2) or {})
    compact_trainer(bert, tmp_path, ["neurons"]).train()
    assert sum(report(tmp_path)[phase]["seconds"] for phase in ("draw", "retrain")) < 2


def test_a_second_run_of_the_same_trainer_goes_on_from_the_smaller_model(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = compact_trainer(bert, tmp_path, ["neurons"])
    trainer.train()
    first = report(tmp_path)["account"]
    trainer.train()
    assert trainer.model.config.intermediate_size == 8
    assert report(tmp_path)["account"]["model_weights"] == first["compact_weights"]


def test_with_a_model_init_each_run_begins_with_a_new_model(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(layers=["neurons"], stopping_point=0.9, compact=True)
    trainer = worm_trainer(bert, tmp_path, config, model_init=lambda: copy.deepcopy(bert))
    for _ in range(2):
        trainer.train()
        assert trainer.model.config.intermediate_size == 16


def test_a_smaller_model_does_not_resume_the_search(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(layers=["neurons"], stopping_point=0.9, compact=True)
    trainer = worm_trainer(
        bert, tmp_path, config, model_init=lambda: copy.deepcopy(bert), save_strategy="epoch", save_total_limit=9
    )
    trainer.train()
    with pytest.raises(ValueError, match="of a search in the dense model, and this trainer's model is the compact one"):
        trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-24")


def test_a_model_that_does_not_take_the_rows_is_refused_by_name(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class OfPairs(WormTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            found = model(input_ids=inputs["ids"], labels=inputs["labels"])
            return (found.loss, found) if kwargs.get("return_outputs") else found.loss

    rows = [{"ids": row["input_ids"], "labels": row["labels"]} for row in examples()]
    config = WormConfig(layers=["neurons"], stopping_point=0.9, compact=True)
    changes = {"train_dataset": rows, "remove_unused_columns": False}
    trainer = worm_trainer(bert, tmp_path, config, OfPairs, **changes)
    with pytest.raises(ValueError, match=r"`compact=True` first tries .* Train with `compact=False`, and cut by hand"):
        trainer.train()
    worm_trainer(bert, tmp_path, WormConfig(layers=["neurons"], stopping_point=0.9), OfPairs, **changes).train()


@pytest.mark.parametrize("layers", [["query"], ["neurons", "value"]])
def test_single_weights_are_refused_before_training(
    bert: BertForSequenceClassification, tmp_path: Path, layers: list[str]
) -> None:
    with pytest.raises(ValueError, match="are single weights: a matrix with scattered zeros does not get smaller"):
        compact_trainer(bert, tmp_path, layers)


def test_an_optimizer_of_the_dense_model_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(layers=["neurons"], compact=True)
    optimizer = torch.optim.SGD(bert.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"`compact=True` needs an optimizer that the trainer makes"):
        WormTrainer(model=bert, args=arguments(tmp_path), worm_config=config, optimizers=(optimizer, None))


def test_zeros_of_neurons_are_held_where_they_are_not_cut_out(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(layers=["neurons", "heads"], stopping_point=0.9, retrain_epochs=2.0)
    trainer = worm_trainer(bert, tmp_path, config, save_strategy="epoch", weight_decay=0.1)
    trainer.train()
    pruned = report(tmp_path)["account"]["pruned_weights"]
    saved = [folder for folder in checkpoints(tmp_path) if (folder / "ticket.safetensors").exists()]
    assert len(saved) == 2
    for folder in saved:
        model = BertForSequenceClassification.from_pretrained(folder)
        for layer, mask in zip(trainer.search.layers, trainer.ticket.masks.values(), strict=True):
            for view in layer.views:
                mine = view.part(dict(model.named_parameters())[name_of(bert, view.parameter)])
                assert (mine[~mask] == 0).all() and (mine[mask] != 0).any()
    assert json.loads((tmp_path / "worm_report.json").read_text())["account"]["pruned_weights"] == pruned > 0


def name_of(model: torch.nn.Module, parameter: torch.nn.Parameter) -> str:
    return next(name for name, own in model.named_parameters() if own is parameter)


def test_what_it_costs_is_measured_and_told(
    bert: BertForSequenceClassification, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = compact_trainer(bert, tmp_path / "run", ["neurons", "heads"], save_strategy="epoch")
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    written = report(tmp_path / "run")
    size, seconds = written["costs"]["size"], written["costs"]["seconds"]
    assert size["dense"] == size["drawn"], "zeros take the same room"
    assert size["compact"]["parameters"] == written["account"]["compact_weights"] < size["dense"]["parameters"]
    assert size["compact"]["bytes"] == 4 * size["compact"]["parameters"]
    assert size["compact"]["multiply_adds"] < size["dense"]["multiply_adds"]
    assert set(seconds) == {"forward 1", "forward 32", "training step 8"}, "the rows of a batch"
    card = ModelCard.load(tmp_path / "run" / "README.md").text
    row = f"| compact | {size['compact']['parameters']:,} |"
    assert "### Size and time" in card and row in card and "The compact model against the dense one" in card
    table = result_table(written)
    assert main(["show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    for line in cost_lines(read_run(str(tmp_path / "run"))):
        assert line in table and f"  {line}" in shown
    resumed = compact_trainer(bert, tmp_path / "again", ["neurons", "heads"])
    resumed.train(resume_from_checkpoint=str(checkpoints(tmp_path / "run")[-1]))
    assert report(tmp_path / "again")["costs"] == written["costs"], "of the draw, which was not repeated"


def test_where_nothing_is_gained_it_is_said() -> None:
    def times(low: float, median: float, high: float) -> dict[str, float]:
        return {"low": low, "median": median, "high": high}

    seconds = {
        "forward 1": {"dense": times(1, 2, 3), "drawn": times(1, 2, 3), "compact": times(0.9, 1.0, 1.1)},
        "forward 32": {"dense": times(4, 4, 4), "drawn": times(4, 4, 4), "compact": times(1, 2, 3)},
    }
    told = gains({"seconds": seconds})
    assert "forward 1: 2.00× (not decided), forward 32: 2.00×. Zeros alone (*drawn*): nothing gained." in told
    seconds["forward 32"] = {"dense": times(4, 4, 4), "drawn": times(2, 3, 3), "compact": times(4, 4, 4)}
    told = gains({"seconds": seconds})
    assert "forward 32: nothing gained. Zeros alone (*drawn*): forward 32: 1.33×." in told
