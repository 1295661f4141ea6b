"""The model of a run, and the size and the range of values that it takes images in."""

import copy
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image as Pillow
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_worm.commands.image.arguments import ModelArguments
from hf_worm.commands.image.data import MODES
from hf_worm.commands.job.model import dtype_of, hub_options, load_weights, model_errors_named
from hf_worm.models import CifarResNetConfig, VggBnConfig
from hf_worm.models.vgg import SMALLEST_IMAGE


@dataclass(frozen=True)
class NewModel:
    """A model that begins with new weights.

    Args:
        config (`type[PreTrainedConfig]`): Its configuration, whose defaults are the model of the paper.
        least (`int`): Edge in pixels of the smallest images that it takes.
    """

    config: type[PreTrainedConfig]
    least: int


NEW_MODELS = {"resnet18": NewModel(CifarResNetConfig, 1), "vgg11_bn": NewModel(VggBnConfig, SMALLEST_IMAGE)}


def load_config(arguments: ModelArguments) -> PreTrainedConfig:
    """Load the configuration that the arguments ask for.

    Raises:
        ValueError: It has no such setting, or not of such a value.
        OSError: It isn't there.
    """
    if arguments.model in NEW_MODELS:
        config = NEW_MODELS[arguments.model].config()
    else:
        name = arguments.config_name or arguments.model
        try:
            with model_errors_named(name):
                config = AutoConfig.from_pretrained(name, **hub_options(arguments))
        except OSError as error:
            close = get_close_matches(name, NEW_MODELS, n=1)
            raise OSError(f"There is no model {name}. Did you mean `{close[0]}`?" if close else str(error)) from error
    if arguments.config_overrides:
        try:
            config.update_from_string(arguments.config_overrides)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`config_overrides` {arguments.config_overrides!r} won't do: {error}") from error
    return config


def load_model(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """Make the model of that configuration, with new weights or pretrained ones.

    Raises:
        ValueError: There is no image classifier of that configuration, or its weights won't do.
        OSError: The weights aren't there.
    """
    if is_new(arguments):
        dtype = dtype_of(arguments)
        with model_errors_named(arguments.model):
            model: PreTrainedModel = AutoModelForImageClassification.from_config(  # type: ignore[no-untyped-call]
                config,
                trust_remote_code=arguments.trust_remote_code,
                **({} if dtype == "auto" else {"dtype": dtype}),
            )
        return model
    return load_weights(AutoModelForImageClassification, arguments.model, config, arguments)


def is_new(arguments: ModelArguments) -> bool:
    """Tell new weights from pretrained ones."""
    return arguments.model in NEW_MODELS or arguments.from_scratch


def refuse_images(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Try a batch before training begins.

    Args:
        model (`PreTrainedModel`): The model; it is not changed.
        pixel_values (`torch.Tensor`): A batch, of shape `(batch, channels, height, width)`.

    Raises:
        ValueError: The model can't take images of that size.
    """
    try:
        with torch.no_grad():
            model.eval()(pixel_values=pixel_values)  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"The model can't take images of {' × '.join(map(str, pixel_values.shape[1:]))}: {error} Pass another "
            "`--image_size`, or another model."
        ) from error


def refuse_single_image(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Try the single image that the last batch of every epoch would hold: a BatchNorm may have nothing to average.

    Args:
        model (`PreTrainedModel`): The model; it is not changed.
        pixel_values (`torch.Tensor`): A batch of one.

    Raises:
        ValueError: The model can't be trained on it.
    """
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(pixel_values=pixel_values)
    except ValueError as error:
        raise ValueError(
            f"The last batch of an epoch would hold one image, which this model can't be trained on ({error}): pass "
            "`--dataloader_drop_last`, or another `--per_device_train_batch_size` or `--max_train_samples`."
        ) from error


def load_processor(arguments: ModelArguments) -> BaseImageProcessor | None:
    """Load the image processor of a pretrained model; `None` for new weights: the data then normalizes the images.

    Raises:
        OSError: The model has none.
    """
    if is_new(arguments):
        return None
    with model_errors_named(arguments.model, "the image processor of "):
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            arguments.model, **hub_options(arguments)
        )
    return processor


def size_of_images(
    arguments: ModelArguments, config: PreTrainedConfig, processor: BaseImageProcessor | None, own: int | None
) -> int:
    """Find the edge in pixels of the images that the model gets.

    Args:
        arguments (`ModelArguments`): Their `image_size` goes before all else.
        config (`PreTrainedConfig`): The model's configuration.
        processor (`BaseImageProcessor`, *optional*): The pretrained model's.
        own (`int`, *optional*): The edge of the data's images, where they are squares of one size.

    Raises:
        ValueError: Nothing says.
    """
    if arguments.image_size is not None:
        return arguments.image_size
    if processor is not None:
        settings = processor.to_dict()
        size: dict[str, int] = settings.get("crop_size") or settings["size"]
        return size["height"] if "height" in size else size["shortest_edge"]
    meant_for = config.to_dict().get("image_size")
    if arguments.model not in NEW_MODELS and isinstance(meant_for, int):
        return meant_for
    if own is None:
        raise ValueError("The images are not squares of one size: pass `--image_size`.")
    return max(own, NEW_MODELS[arguments.model].least) if arguments.model in NEW_MODELS else own


def new_processor(size: int, mean: list[float], std: list[float]) -> BaseImageProcessor:
    """Make a processor that prepares an image as the data was prepared; a pipeline loads it beside the model.

    A pipeline makes all images RGB: to a model of one channel, images have to be given by hand.

    Args:
        size (`int`): Edge of the images in pixels.
        mean, std (`list[float]`): Of each channel, of values in [0, 1].
    """
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_convert_rgb": len(mean) == len(MODES[3]),
        "resample": Pillow.Resampling.BILINEAR,
        "image_mean": mean,
        "image_std": std,
    }
    with TemporaryDirectory() as folder:  # it is the Auto class that finds the implementation for what is installed
        Path(folder, "preprocessor_config.json").write_text(json.dumps(settings))
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    return processor


def normalization(processor: BaseImageProcessor, channels: int) -> tuple[list[float], list[float]]:
    """Find mean and standard deviation of each channel, of values in [0, 1], that a pretrained model expects.

    Where it expects values of another range, they are such that it gets them.

    Raises:
        ValueError: It expects something else beside.
    """
    settings = processor.to_dict()
    for name in ("do_flip_channel_order", "rescale_offset"):
        if settings.get(name):
            raise ValueError(f"The model's image processor has `{name}` on, which this command does not offer.")
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    mean, std = [0.0] * channels, [1.0] * channels
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
    return [value / (255 * factor) for value in mean], [value / (255 * factor) for value in std]
