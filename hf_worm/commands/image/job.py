"""From the arguments to a trainer that is ready: images, model and metrics, each checked before training starts."""

from transformers import default_data_collator, set_seed

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
    """The trainer of a run, and the task that it is for.

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
    channels = config.to_dict().get("num_channels", 3)
    own = own_size(splits[TRAIN], TRAIN)
    size = size_of_images(arguments.model, config, processor, own)
    stored = size if own is None else min(own, size)  # smaller images are enlarged batch by batch
    if data.crop_padding is not None and data.crop_padding > stored:
        raise ValueError(f"`crop_padding` must be at most {stored}, the edge of the images, got {data.crop_padding}.")
    refuse_size("A batch", 4 * training.train_batch_size * channels * size**2, size)
    images = {name: decode(split, name, channels, stored) for name, split in splits.items()}
    if processor is None:
        mean, std = mean_and_std(images[TRAIN])
        processor = new_processor(size, mean, std)
    else:
        mean, std = normalization(processor, channels)

    augmentation = PadCropFlip(
        len(images[TRAIN]),
        padding=round(PADDING * stored) if data.crop_padding is None else data.crop_padding,
        flip=data.dataset_name != DIGITS if data.horizontal_flip is None else data.horizontal_flip,
        seed=training.seed,
    )
    datasets = {
        name: ImageDataset(
            images[name],
            label_tensor(labels[name], order),
            mean,
            std,
            image_size=size,
            augmentation=augmentation if name == TRAIN else None,
        )
        for name in splits
    }
    set_seed(training.seed)  # the weights are made at random, or the head is
    model = load_model(arguments.model, config)
    first = datasets[TRAIN][0]["pixel_values"][None]
    refuse_images(model, first)
    if training.do_train and not training.dataloader_drop_last and len(images[TRAIN]) % training.train_batch_size == 1:
        refuse_single_image(model, first)
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


def dataset_tail(name: str) -> str:
    """The last part of a data set's name or folder."""
    return name.rstrip("/").rpartition("/")[2]
