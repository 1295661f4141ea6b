"""The arguments of the image command that are neither `TrainingArguments` nor `WormConfig`."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_worm.commands.image.digits import NAME as DIGITS
from hf_worm.commands.job.arguments import PretrainedArguments, check_counts


@dataclass(kw_only=True)
class ModelArguments(PretrainedArguments):
    """The model to train, and how to get it; the `help` of each field describes it."""

    model: str = field(
        default="resnet18",
        metadata={
            "help": "resnet18 (for small images) or vgg11_bn with new weights, or a pretrained image classifier: a Hub "
            "id or a local folder."
        },
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Take a pretrained model's configuration only, and new weights."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Settings of the model to change, such as width=16 or classifier=slim,dropout=0.2."},
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Edge of the images in pixels. By default what the pretrained model takes, else the data's own, "
            "if that is enough."
        },
    )

    def __post_init__(self) -> None:
        check_counts(self, "image_size")


@dataclass
class DataArguments:
    """The images to train on, and how to prepare them; the `help` of each field describes it."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str = field(
        default=DIGITS,
        metadata={
            "help": "Data set: a Hub id such as uoft-cs/cifar10, a local folder laid out as on the Hub or with a "
            f"folder of images for each class, or {DIGITS}: scikit-learn's, which needs no download."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    image_column_name: str | None = field(
        default=None, metadata={"help": "Column of the images. By default the only one that holds images."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the class. By default label, labels, or the only one of classes."}
    )
    validation_split_name: str | None = field(
        default=None, metadata={"help": "Split to evaluate on. By default validation, else test."}
    )
    crop_padding: int | None = field(
        default=None,
        metadata={"help": "Largest shift of a training image in pixels; 0: none. By default an eighth of its edge."},
    )
    horizontal_flip: bool | None = field(
        default=None, metadata={"help": f"Mirror half of the training images. By default for all data but {DIGITS}."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on so many rows only, chosen at random, always the same."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many rows only, chosen at random, always the same."}
    )

    def __post_init__(self) -> None:
        check_counts(self, "max_train_samples", "max_eval_samples")
        if self.crop_padding is not None and self.crop_padding < 0:
            raise ValueError(f"`crop_padding` must be at least 0, got {self.crop_padding}.")
