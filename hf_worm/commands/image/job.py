"""Makes a trainer of the arguments: images, model and metrics, each checked before training starts."""

import torch
from datasets import Dataset
from transformers import (
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from hf_worm.commands.image.arguments import DataArguments, ModelArguments
from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.data import (
    VALIDATION,
    decode,
    label_tensor,
    load_images,
    mean_and_std,
    own_size,
    refuse_size,
)
from hf_worm.commands.image.dataset import EpochCallback, ImageDataset
from hf_worm.commands.image.digits import NAME as DIGITS
from hf_worm.commands.image.model import (
    load_config,
    load_model,
    load_processor,
    new_processor,
    normalization,
    refuse_images,
    refuse_single_image,
    size_of_images,
)
from hf_worm.commands.job.arguments import Arguments
from hf_worm.commands.job.labels import label_ids, task_of
from hf_worm.commands.job.loading import TRAIN
from hf_worm.commands.job.metrics import metrics_function
from hf_worm.commands.job.model import set_classes
from hf_worm.commands.job.task import Task
from hf_worm.commands.job.trainer import make_trainer
from hf_worm.trainer import WormTrainer

ImageArguments = Arguments[ModelArguments, DataArguments]
PADDING = 1 / 8  # of the edge: the 4 pixels of CIFAR-10's 32


def build_trainer(arguments: ImageArguments, checkpoint: str | None = None) -> tuple[WormTrainer, Task]:
    """Make the trainer of a run, and the task that it is for.

    Args:
        arguments (`Arguments`): Of the run.
        checkpoint (`str`, *optional*): What it will resume from.

    Raises:
        ValueError: The data, the model, the settings or the checkpoint won't do.
        OSError: The data or the model isn't there.
    """
    training, data = arguments.training, arguments.data
    with training.main_process_first(desc="loading the data"):
        splits = load_images(data, training.do_eval, arguments.model.cache_dir, arguments.model.token)
    task = task_of(splits[TRAIN], dataset_tail(data.dataset_name), ("image",))
    if task.is_regression:
        raise ValueError("The labels are numbers with fractions: images are classified, so they must be class ids.")
    labels = {name: label_ids(split, task, name) for name, split in splits.items()}
    config = load_config(arguments.model)
    processor = load_processor(arguments.model)
    order = set_classes(config, task)
    ids = {name: label_tensor(split, order) for name, split in labels.items()}
    datasets, processor = _datasets(arguments, splits, ids, config, processor)
    set_seed(training.seed)  # the weights are made at random, or the head is
    model = load_model(arguments.model, config)
    _try(model, datasets[TRAIN], training)
    trainer = make_trainer(
        arguments,
        checkpoint,
        model=model,
        train_dataset=datasets[TRAIN],
        eval_dataset=datasets.get(VALIDATION),
        processing_class=processor,
        data_collator=default_data_collator,
        compute_metrics=metrics_function(task, order),
        callbacks=[EpochCallback(datasets[TRAIN])],
    )
    return trainer, task


def _datasets(
    arguments: ImageArguments,
    splits: dict[str, Dataset],
    labels: dict[str, torch.Tensor],
    config: PreTrainedConfig,
    processor: BaseImageProcessor | None,
) -> tuple[dict[str, ImageDataset], BaseImageProcessor]:
    """Decode all images at the size that the model takes; make a processor that prepares others alike, if need be.

    Args:
        arguments (`Arguments`): Of the run.
        splits (`dict[str, Dataset]`): From [`load_images`].
        labels (`dict[str, torch.Tensor]`): The model's class ids of each split.
        config (`PreTrainedConfig`): The model's configuration.
        processor (`BaseImageProcessor`, *optional*): The pretrained model's.
    """
    channels = config.to_dict().get("num_channels", 3)
    own = own_size(splits[TRAIN], TRAIN)
    size = size_of_images(arguments.model, config, processor, own)
    stored = size if own is None else min(own, size)  # smaller images are enlarged batch by batch
    augmentation = _augmentation(arguments, len(splits[TRAIN]), stored)
    refuse_size("A batch", 4 * arguments.training.train_batch_size * channels * size**2, size)
    images = {name: decode(split, name, channels, stored) for name, split in splits.items()}
    if processor is None:
        mean, std = mean_and_std(images[TRAIN])
        processor = new_processor(size, mean, std)
    else:
        mean, std = normalization(processor, channels)
    datasets = {
        name: ImageDataset(
            pixels, labels[name], mean, std, image_size=size, augmentation=augmentation if name == TRAIN else None
        )
        for name, pixels in images.items()
    }
    return datasets, processor


def _augmentation(arguments: ImageArguments, count: int, edge: int) -> PadCropFlip:
    """Make the augmentation of `count` training images with an edge of so many pixels.

    Raises:
        ValueError: The images are smaller than the largest shift.
    """
    data = arguments.data
    if data.crop_padding is not None and data.crop_padding > edge:
        raise ValueError(f"`crop_padding` must be at most {edge}, the edge of the images, got {data.crop_padding}.")
    padding = round(PADDING * edge) if data.crop_padding is None else data.crop_padding
    flip = data.dataset_name != DIGITS if data.horizontal_flip is None else data.horizontal_flip
    return PadCropFlip(count, padding, flip, seed=arguments.training.seed)


def _try(model: PreTrainedModel, train: ImageDataset, training: TrainingArguments) -> None:
    """Try the model on an image, and on one alone if the last batch of an epoch would hold a single one."""
    first = train[0]["pixel_values"][None]
    refuse_images(model, first)
    if training.do_train and not training.dataloader_drop_last and len(train) % training.train_batch_size == 1:
        refuse_single_image(model, first)


def dataset_tail(name: str) -> str:
    """Take the last part of the name of a data set, of a model, or of a folder."""
    return name.rstrip("/").rpartition("/")[2]
