"""Files of version 0.1.0: finished models and tickets are read, and an unfinished run is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from training import examples, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import Ticket, WormConfig, load_compact
from hf_worm.checkpoint.whole import require_whole

OLD = Path(__file__).parent.parent / "v0_1_0"


def test_a_finished_model_loads_with_the_outputs_that_it_had() -> None:
    """Two of its four heads and half of its neurons are cut out."""
    model = load_compact(OLD / "compact").eval()
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 16
    with torch.no_grad():
        logits = model(torch.stack([row["input_ids"] for row in examples(4)])).logits
    torch.testing.assert_close(
        logits, torch.tensor(json.loads((OLD / "compact" / "logits.json").read_text())["logits"])
    )


def test_its_ticket_is_retrained(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    ticket = Ticket.from_pretrained(OLD / "weights")
    assert ticket.parts == {} and ticket.converged
    trainer = worm_trainer(bert, tmp_path, WormConfig())
    trainer.ticket = ticket
    trainer.retrain()
    for name, mask in ticket.masks.items():
        assert bool((bert.get_parameter(name)[~mask] == 0).all())


@pytest.mark.parametrize("step", [16, 32])
def test_an_unfinished_run_is_refused_and_nothing_changes(
    step: int, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Of its search and of its retraining."""
    checkpoint = OLD / "unfinished" / f"checkpoint-{step}"
    before = weights(bert)
    trainer = worm_trainer(bert, tmp_path, WormConfig(stopping_point=0.5))
    message = (
        r"is of an unfinished run of hf_worm 0\.1.*Finish that run with `pip install 'hf_worm<0\.2'`, or begin anew"
    )
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=message):
        require_whole(str(checkpoint))
    assert same_weights(weights(bert), before) and trainer.state.global_step == 0
