"""VGG-11 with batch normalization; checkpoints carry this file, so it imports nothing but PyTorch and Transformers."""

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

# Configuration A of the VGG paper's table 1: channels of each 3×3 convolution, in widths; 0 is a 2×2 max pool.
LAYOUT = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)
SMALLEST_IMAGE = 2 ** LAYOUT.count(0)
CLASSIFIERS = ("classic", "slim")


class VggBnConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a [`VggBnForImageClassification`]; the defaults are VGG-11 for CIFAR-10.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
        image_size (`int`, *optional*, defaults to 32):
            Height and width of the images it is meant for, in pixels, at least 32; the model takes any from there on.
        width (`int`, *optional*, defaults to 64):
            Channels of the first convolution; the others have 2, 4, 4, 8, 8, 8 and 8 times as many.
        classifier (`str`, *optional*, defaults to `"classic"`):
            `"classic"`: the three linear layers of the VGG paper, on features pooled to 7×7; `"slim"`: one linear
            layer, on features averaged over the image.
        classifier_size (`int`, *optional*, defaults to 4096):
            Units of the two hidden layers of the classic classifier.
        dropout (`float`, *optional*, defaults to 0.5):
            Share of the units of those layers dropped in training, in [0, 1).
        channels (`list[int]`, *optional*):
            Channels of each convolution, where they are not those that `width` makes: of a network that lost some.
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes.
        kwargs: What every `PreTrainedConfig` takes (`id2label`, ...).

    Raises:
        ValueError: A setting is outside its range.
    """

    model_type = "vgg_bn"

    # Annotated here too, because Transformers makes a dataclass of this: only what is annotated counts in `==`.
    num_channels: int
    image_size: int
    width: int
    classifier: str
    classifier_size: int
    dropout: float
    channels: list[int] | None

    def __init__(
        self,
        num_channels: int = 3,
        image_size: int = 32,
        width: int = 64,
        classifier: Literal["classic", "slim"] = "classic",
        classifier_size: int = 4096,
        dropout: float = 0.5,
        channels: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_channels = num_channels
        self.image_size = image_size
        self.width = width
        self.classifier = classifier
        self.classifier_size = classifier_size
        self.dropout = dropout
        self.channels = channels
        if kwargs.get("id2label") is None:
            kwargs.setdefault("num_labels", 10)
        super().__init__(**kwargs)
        self.check()

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields to save; the labels always: Transformers leaves out two, its default, and ours is ten."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    def check(self) -> None:
        """Raise a `ValueError` where a setting is outside its range; `from_pretrained` changes some after creation."""
        least_of = {"num_channels": 1, "image_size": SMALLEST_IMAGE, "width": 1, "classifier_size": 1, "num_labels": 1}
        for name, least in least_of.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"`classifier` must be one of {CLASSIFIERS}, got {self.classifier!r}.")
        if not isinstance(self.dropout, int | float) or isinstance(self.dropout, bool) or not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be a number in [0, 1), got {self.dropout!r}.")
        convolutions = sum(widths > 0 for widths in LAYOUT)
        if self.channels is not None and not (
            isinstance(self.channels, list)
            and len(self.channels) == convolutions
            and all(type(count) is int and count > 0 for count in self.channels)
        ):
            raise ValueError(
                f"`channels` must be a list of {convolutions} whole numbers of at least 1, one for each convolution, "
                f"or `None`, got {self.channels!r}."
            )

    def channels_of_convolutions(self) -> list[int]:
        """Channels of each convolution in turn."""
        return self.channels or [widths * self.width for widths in LAYOUT if widths]


class VggBnForImageClassification(PreTrainedModel):  # type: ignore[no-untyped-call]
    """VGG-11 (Simonyan & Zisserman 2014, arXiv:1409.1556, configuration A), each convolution followed by a BatchNorm.

    Eight 3×3 convolutions and five max pools, each of which halves height and width: what they leave of a 32×32 image
    is one pixel. The classic classifier takes it 49 times over, as the 7×7 it was made for; nearly all parameters are
    there. Modules are named as in torchvision. Parameters at 10 classes: 128,812,810; with the slim classifier, as is
    usual for CIFAR-10, 9,231,114.

    Args:
        config (`VggBnConfig`): Its shape.
    """

    config: VggBnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VggBnConfig) -> None:
        config.check()
        super().__init__(config)
        layers: list[nn.Module] = []
        channels, further = config.num_channels, iter(config.channels_of_convolutions())
        for widths in LAYOUT:
            if widths == 0:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            before, channels = channels, next(further)
            layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if config.classifier == "slim" else 7)
        labels: int = config.num_labels  # type: ignore[assignment]  # `check` has seen that it is a number
        self.classifier: nn.Module
        if config.classifier == "slim":
            self.classifier = nn.Linear(channels, labels)
        else:
            self.classifier = nn.Sequential(
                nn.Linear(channels * 7 * 7, config.classifier_size),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Linear(config.classifier_size, config.classifier_size),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Linear(config.classifier_size, labels),
            )
        self.post_init()  # type: ignore[no-untyped-call]

    def channel_paths(self) -> dict[str, tuple[str, list[str], str | None]]:
        """By BatchNorm: the convolution before it, and what takes its channels in; all by their paths."""
        places = [place for place, module in enumerate(self.features) if isinstance(module, nn.Conv2d)]
        last = "classifier" if self.config.classifier == "slim" else "classifier.0"
        takers = [*(f"features.{place}" for place in places[1:]), last]
        return {f"features.{p + 1}": (f"features.{p}", [taker], None) for p, taker in zip(places, takers, strict=True)}

    def say_channels(self) -> None:
        """Put the channels that the convolutions have now into the configuration."""
        self.config.channels = [module.out_channels for module in self.features if isinstance(module, nn.Conv2d)]

    def _init_weights(self, module: nn.Module) -> None:
        """Convolutions as in arXiv:1502.01852 (fan-out, ReLU), BatchNorm the identity, linear layers N(0, 0.01²)."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                init.constant_(tensor, 1 if name in ("weight", "running_var") else 0)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=0.01)
            init.zeros_(module.bias)

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention | tuple[torch.Tensor, ...]:
        """Logits of the classes, and the loss where labels are given: cross-entropy, as `problem_type` is by default.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`):
                The images, normalized; height and width at least 32.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
                The classes, in [0, `num_labels`).
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                `False`: a tuple, `(loss, logits)` or `(logits,)`.

        Returns:
            `ImageClassifierOutputWithNoAttention`: `loss`, a scalar, the mean over the batch; `logits` of shape
            `(batch, num_labels)`.

        Raises:
            ValueError: The images have another shape, are too small, or have another number of channels than the
                configuration says.
        """
        shape, channels = tuple(pixel_values.shape), self.config.num_channels
        if len(shape) != 4 or shape[1] != channels:
            raise ValueError(
                f"`pixel_values` must have shape (batch, {channels}, height, width), got {shape}. Put the channels "
                f"first and convert the images to {channels} of them, or make the model with "
                f"`{type(self.config).__name__}(num_channels=...)`."
            )
        if min(shape[2:]) < SMALLEST_IMAGE:
            raise ValueError(
                f"`pixel_values` must be images of at least {SMALLEST_IMAGE}×{SMALLEST_IMAGE}, got "
                f"{shape[2]}×{shape[3]}: the five max pools leave nothing of a smaller one. Resize or pad the images."
            )
        logits = self.classifier(self.avgpool(self.features(pixel_values)).flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()
