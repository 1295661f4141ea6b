"""Adapters of PEFT: the base weights are frozen, so there is nothing to search in them."""

import copy
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import half_is_zero
from training import (
    QUERY_AND_KEY,
    checkpoints,
    loaded_by,
    pruned_are_zero,
    report,
    same_weights,
    weights,
    worm_trainer,
)
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from hf_worm import Ticket, WormConfig

peft = pytest.importorskip("peft", reason="needs the extra `trainers`")


def with_adapter(bert: BertForSequenceClassification, *targets: str) -> peft.PeftModel:
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=list(targets))
    return peft.get_peft_model(bert, config)


def test_frozen_base_weights_are_refused_with_what_to_do(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    model = with_adapter(bert, "query", "key")
    with pytest.raises(ValueError) as refusal:
        worm_trainer(model, tmp_path)
    message = str(refusal.value)
    assert "4 of 4 representative layers are frozen" in message
    assert "query.base_layer.weight" in message
    assert "there is nothing to search" in message
    assert "`model = model.merge_and_unload()`" in message
    assert not any(tmp_path.iterdir())


def test_an_adapter_beside_the_watched_layers_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    model = with_adapter(bert, "value")
    with pytest.raises(ValueError, match=r"4 of 4 representative layers are frozen .* nothing to search"):
        worm_trainer(model, tmp_path)


def test_the_advice_for_frozen_base_weights_unfreezes_them(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    names = {"model": with_adapter(bert, "query", "key")}
    with pytest.raises(ValueError) as refusal:
        worm_trainer(names["model"], tmp_path)
    for line in re.findall("`(model[^`]*)`", str(refusal.value)):
        exec(line, names)
    worm_trainer(names["model"], tmp_path).train()


def test_a_merged_model_trains_once_it_is_unfrozen(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    adapted = with_adapter(bert, "query", "key")
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = adapted.merge_and_unload()
    with pytest.raises(ValueError, match=r"requires_grad_\(True\)"):
        worm_trainer(merged, tmp_path)
    merged.requires_grad_(True)
    trainer = worm_trainer(merged, tmp_path)
    trainer.train()
    trainer.save_model()
    assert list(trainer.ticket.masks) == QUERY_AND_KEY
    assert pruned_are_zero(tmp_path, trainer.ticket)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same_weights(weights(loaded), weights(merged))


def test_adapter_weights_are_pruned_where_they_are_named(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    model = with_adapter(base, "query", "key")
    settings = WormConfig(stopping_point=0.5, layers=["*.lora_A.*"])
    trainer = worm_trainer(model, tmp_path / "whole", settings, save_strategy="steps", save_steps=6)
    frozen = {name: weight for name, weight in weights(model).items() if ".base_layer." in name}
    trainer.train()
    trainer.save_model()
    ticket = Ticket.from_pretrained(tmp_path / "whole")
    assert [name.split(".self.")[1] for name in ticket.masks] == [
        f"{role}.lora_A.default.weight" for role in ("query", "key")
    ] * 2
    assert half_is_zero(model.state_dict(), ticket)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in frozen.items())
    assert report(tmp_path / "whole")["account"]["pruned_weights"] == 4 * 4 * 16 // 2

    saved = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    assert all(bool((saved[name.replace(".default.", ".")][~mask] == 0).all()) for name, mask in ticket.masks.items())
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "whole", is_trainable=True)
    assert half_is_zero(loaded.state_dict(), ticket)
    ticket.hold(loaded, torch.optim.AdamW(loaded.parameters())).remove()

    for checkpoint in checkpoints(tmp_path / "whole")[2::2]:
        again = with_adapter(copy.deepcopy(bert), "query", "key")
        resumed = worm_trainer(again, tmp_path / checkpoint.name, settings, save_strategy="steps", save_steps=6)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(again), weights(model)), checkpoint.name


@pytest.mark.parametrize(("task", "labels"), [("SEQ_CLS", 2), ("SEQ_CLS", 3), (None, 2)])
def test_the_card_says_how_to_load_the_adapter_and_its_base(
    bert: BertForSequenceClassification, tmp_path: Path, task: str | None, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bert if labels == 2 else bert.bert).save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=labels)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type=task, r=4, target_modules=["query", "key"]))
    trainer = worm_trainer(model, tmp_path / "judge", WormConfig(stopping_point=0.5, layers=["*.lora_A.*"]))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "judge" / "README.md").read_text()
    name = "AutoPeftModelForSequenceClassification" if task else "AutoPeftModel"
    options = "" if labels == 2 else f", num_labels={labels}"
    assert f'from peft import {name}\n\nmodel = {name}.from_pretrained("judge"{options})\n' in card
    monkeypatch.chdir(tmp_path)
    words = torch.arange(12).view(1, 12)
    assert torch.equal(loaded_by(card).eval()(words).logits, model.eval()(words).logits)
