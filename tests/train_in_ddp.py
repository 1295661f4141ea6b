"""What each process of tests/test_distributed.py runs: `FOLDER BATCH_SIZE TARGET [CHECKPOINT]`."""

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from training import SequentialTrainer, small_bert, sum_over_items, weights, without_dropout, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import WormConfig


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors.values())).hexdigest()


def train(folder: Path, batch_size: int, target: str, checkpoint: str | None = None) -> None:
    """Train, and leave `rankN.json` beside the weights."""
    torch.manual_seed(0)
    if target == "compact":
        settings = WormConfig(stopping_point=0.9, margin=0.1, layers=["neurons", "heads"], compact=True)
    elif target == "fade":
        settings = WormConfig.fade(stopping_point=0.05, margin=0.5)  # under one schedule
    elif target == "fisher":
        settings = WormConfig(stopping_point=0.9, margin=0.1, layers=["neurons", "heads"], score="fisher")
    elif target == "faster":
        settings = WormConfig.faster(1.3, speedup_by="multiply_adds", distillation=0.5)
    elif target == "cubic":
        settings = WormConfig(schedule="cubic", ramp_epochs=2.0, sample_strategy="steps", sample_steps=3)
    else:
        settings = WormConfig(stopping_point=0.05, margin=0.5, truncation_target=target)
    trainer = worm_trainer(
        without_dropout(BertForSequenceClassification(small_bert())),
        folder,
        settings,
        SequentialTrainer,
        per_device_train_batch_size=batch_size,
        optim="sgd",
        learning_rate=0.1,
        save_strategy="epoch",
        compute_loss_func=sum_over_items,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    found = {
        "history": [asdict(seen) for seen in trainer.search.history],
        "masks": digest(trainer.search.masks),
        "weights": digest(weights(trainer.model)),
        "truncating": trainer.search.truncating,
    }
    (folder / f"rank{trainer.args.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, batch_size, *rest = sys.argv[1:]
    train(Path(folder), int(batch_size), *rest)
