"""ResNet for small images; checkpoints carry this file, so it imports nothing but PyTorch and Transformers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class CifarResNetConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a [`CifarResNetForImageClassification`]; the defaults are ResNet-18 for CIFAR-10.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
        image_size (`int`, *optional*, defaults to 32):
            Height and width of the images it is meant for, in pixels; the model takes any.
        width (`int`, *optional*, defaults to 64):
            Channels of the stem and of the first stage; each further stage has twice as many as the one before.
        depths (`Sequence[int]`, *optional*, defaults to `(2, 2, 2, 2)`):
            Basic blocks of each stage; a basic block has two convolutions.
        channels (`list[list[int]]`, *optional*):
            Of a network that lost channels, for each basic block in turn: those between its convolutions, those that
            its second convolution adds to, and those that its shortcut's convolution puts out (0 where it has none).
        num_labels (`int`, *optional*, defaults to 10):
            Number of classes.
        kwargs: What every `PreTrainedConfig` takes (`id2label`, ...).

    Raises:
        ValueError: A setting is outside its range.
    """

    model_type = "cifar_resnet"

    # Annotated here too, because Transformers makes a dataclass of this: only what is annotated counts in `==`.
    num_channels: int
    image_size: int
    width: int
    depths: list[int]
    channels: list[list[int]] | None

    def __init__(
        self,
        num_channels: int = 3,
        image_size: int = 32,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        channels: list[list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_channels = num_channels
        self.image_size = image_size
        self.width = width
        self.depths = list(depths) if isinstance(depths, tuple) else depths  # type: ignore[assignment]  # checked below
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
        for name in ("num_channels", "image_size", "width", "num_labels"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {getattr(self, name)!r}.")
        if not isinstance(self.depths, list | tuple) or not self.depths or not all(map(_is_count, self.depths)):
            raise ValueError(
                "`depths` must be a list of whole numbers of at least 1, one for each stage, such as [2, 2, 2, 2] for "
                f"ResNet-18, got {self.depths!r}."
            )
        if self.channels is not None and not (
            isinstance(self.channels, list)
            and len(self.channels) == sum(self.depths)
            and all(isinstance(block, list) and len(block) == 3 for block in self.channels)
            and all(_is_count(block[0]) and _is_count(block[1]) and _is_count(block[2] + 1) for block in self.channels)
        ):
            raise ValueError(
                f"`channels` must be a list of {sum(self.depths)} lists of three whole numbers, one for each block, or "
                f"`None`, got {self.channels!r}."
            )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut around them, which is a 1×1 convolution where the shape changes.

    Args:
        in_channels, out_channels (`int`): Of the block.
        stride (`int`): Of the first convolution.
        channels (`list[int]`, *optional*):
            Those between the convolutions, those that the second one puts out, and those that the shortcut's puts out,
            where they are fewer: then buffers say which channels of the block they are, and the others are 0.
    """

    places: torch.Tensor | None
    shortcut_places: torch.Tensor | None

    def __init__(self, in_channels: int, out_channels: int, stride: int, channels: list[int] | None = None) -> None:
        super().__init__()
        self.out_channels = out_channels
        inner, outer, short = channels or [out_channels] * 3
        self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, outer, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, short, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(short),
            )
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.register_buffer("places", None if outer == out_channels else torch.arange(outer))
        fewer = self.downsample is not None and short != out_channels
        self.register_buffer("shortcut_places", torch.arange(short) if fewer else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.shortcut_places is not None:
            nothing = shortcut.new_zeros(len(shortcut), self.out_channels, *shortcut.shape[2:])
            shortcut = nothing.index_copy(1, self.shortcut_places, shortcut)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x = x + shortcut if self.places is None else shortcut.index_add(1, self.places, x)
        x = self.relu(x)
        return x


class CifarResNetForImageClassification(PreTrainedModel):  # type: ignore[no-untyped-call]
    """ResNet of basic blocks (He et al. 2015, arXiv:1512.03385) with a stem for small images, and a linear classifier.

    The stem of the ImageNet networks, a 7×7 convolution of stride 2 and a max pool, would leave 8×8 of a 32×32 image;
    here it is one 3×3 convolution of stride 1, no pooling, as in section 4.2 of the ResNet paper. Stages after the
    first halve height and width. ResNet-18 on 32×32 images: feature maps of 32×32, 16×16, 8×8 and 4×4, then the average
    over all of them. Modules are named as in torchvision. 11,173,962 parameters at 10 classes.

    Args:
        config (`CifarResNetConfig`): Its shape.
    """

    config: CifarResNetConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["BasicBlock"]  # noqa: RUF012

    def __init__(self, config: CifarResNetConfig) -> None:
        config.check()
        super().__init__(config)
        self.conv1 = nn.Conv2d(config.num_channels, config.width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        of_blocks: list[list[int] | None] = [*config.channels] if config.channels else [None] * sum(config.depths)
        channels, further = config.width, iter(of_blocks)
        for stage, depth in enumerate(config.depths):
            blocks = [BasicBlock(channels, config.width * 2**stage, 1 if stage == 0 else 2, next(further))]
            channels = config.width * 2**stage
            blocks += [BasicBlock(channels, channels, 1, next(further)) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, config.num_labels)  # type: ignore[arg-type]  # `check` has seen that it is a number
        self.post_init()  # type: ignore[no-untyped-call]

    def blocks(self) -> dict[str, BasicBlock]:
        """The basic blocks by their paths, in turn."""
        return {path: module for path, module in self.named_modules() if isinstance(module, BasicBlock)}

    def channel_paths(self) -> dict[str, tuple[str, list[str], str | None]]:
        """By BatchNorm: the convolution before it, what takes its channels in, and the buffer that says which it has.

        All by their paths. The channels of the stem, which every block of the first stage adds to, are not among them.
        """
        paths: dict[str, tuple[str, list[str], str | None]] = {}
        for block, module in self.blocks().items():
            paths[f"{block}.bn1"] = (f"{block}.conv1", [f"{block}.conv2"], None)
            paths[f"{block}.bn2"] = (f"{block}.conv2", [], f"{block}.places")
            if module.downsample is not None:
                paths[f"{block}.downsample.1"] = (f"{block}.downsample.0", [], f"{block}.shortcut_places")
        return paths

    def say_channels(self) -> None:
        """Put the channels that the blocks have now into the configuration."""
        self.config.channels = [
            [
                block.bn1.num_features,
                block.bn2.num_features,
                0 if block.downsample is None else len(block.downsample.get_parameter("1.weight")),
            ]
            for block in self.blocks().values()
        ]

    def _init_weights(self, module: nn.Module) -> None:
        """Convolutions as in arXiv:1502.01852 (fan-out, ReLU), BatchNorm the identity, the classifier as PyTorch's."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                init.constant_(tensor, 1 if name in ("weight", "running_var") else 0)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.uniform_(module.bias, -1 / math.sqrt(module.in_features), 1 / math.sqrt(module.in_features))

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention | tuple[torch.Tensor, ...]:
        """Logits of the classes, and the loss where labels are given: cross-entropy, as `problem_type` is by default.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`):
                The images, normalized; height and width at least 1.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
                The classes, in [0, `num_labels`).
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                `False`: a tuple, `(loss, logits)` or `(logits,)`.

        Returns:
            `ImageClassifierOutputWithNoAttention`: `loss`, a scalar, the mean over the batch; `logits` of shape
            `(batch, num_labels)`.

        Raises:
            ValueError: The images have another shape, or another number of channels than the configuration says.
        """
        shape, channels = tuple(pixel_values.shape), self.config.num_channels
        if len(shape) != 4 or shape[1] != channels or min(shape[2:]) < 1:
            raise ValueError(
                f"`pixel_values` must have shape (batch, {channels}, height, width), height and width at least 1, got "
                f"{shape}. Put the channels first and convert the images to {channels} of them, or make the model with "
                f"`{type(self.config).__name__}(num_channels=...)`."
            )
        x: torch.Tensor = self.relu(self.bn1(self.conv1(pixel_values)))
        for stage in range(len(self.config.depths)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits = self.fc(self.avgpool(x).flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
