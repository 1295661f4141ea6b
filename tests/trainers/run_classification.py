"""Fine-tunes a model to label sentences, or pairs of them, from CSV or JSON files, as Hugging Face's examples do.

    python run_classification.py --model_name_or_path bert-base-uncased --train_file train.csv \
        --validation_file validation.csv --output_dir out --do_train --do_eval
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "A folder, or a model on the Hub."})


@dataclass
class DataArguments:
    train_file: str = field(metadata={"help": "CSV or JSON with a column `label`; the others hold text."})
    validation_file: str = field(metadata={"help": "The same for validation."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are cut."})


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    kind = {".csv": "csv", ".json": "json", ".jsonl": "json"}[Path(data_args.train_file).suffix]
    files = {"train": data_args.train_file, "validation": data_args.validation_file}
    raw = load_dataset(kind, data_files=files)
    labels = sorted(raw["train"].unique("label"))
    texts = [name for name in raw["train"].column_names if name not in ("label", "idx")][:2]

    config = AutoConfig.from_pretrained(model_args.model_name_or_path, num_labels=len(labels))
    config.id2label = {number: str(label) for number, label in enumerate(labels)}
    config.label2id = {str(label): number for number, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(model_args.model_name_or_path, config=config)

    def preprocess(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(*(rows[name] for name in texts), truncation=True, max_length=data_args.max_seq_length)
        return {**encoded, "labels": [labels.index(label) for label in rows["label"]]}

    with training_args.main_process_first(desc="tokenizing"):
        data = raw.map(preprocess, batched=True, remove_columns=raw["train"].column_names)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=1) == prediction.label_ids))}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )

    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=data["validation"])
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.push_to_hub:
        trainer.push_to_hub(tasks="text-classification")
    else:
        trainer.create_model_card(tasks="text-classification")


if __name__ == "__main__":
    main()
