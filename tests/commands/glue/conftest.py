"""A tiny BERT with its tokenizer, and the flags of a run of seconds: nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_data import BAD, GOOD, THINGS, judgements, write_csv
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from training import small_bert
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = (*SPECIAL, *GOOD, *BAD, *THINGS, "the", "was")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT of two layers, with a tokenizer of 18 words."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(WordPiece({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = small_bert(vocab_size=len(VOCABULARY), max_position_embeddings=32)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`train` and `validation`: csv files of 32 and 8 judgements."""
    return {
        name: write_csv(tmp_path / f"{name}.csv", judgements(size)) for name, size in (("train", 32), ("validation", 8))
    }


@pytest.fixture
def flags(tiny_model: Path, files: dict[str, Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the flags of a short run on `files` into `tmp_path/out`; keywords change or add flags, `None` drops one."""

    def make(**changes: object) -> list[str]:
        settings: dict[str, object] = {
            "model_name_or_path": tiny_model,
            "train_file": files["train"],
            "validation_file": files["validation"],
            "output_dir": tmp_path / "out",
            "num_train_epochs": 4,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "report_to": "none",
            "use_cpu": True,
            **changes,
        }
        return [f"--{name}={value}" for name, value in settings.items() if value is not None]

    return make
