"""Ways to train that a `WormTrainer` refuses, each with what to do instead."""

from accelerate.utils import DistributedType
from transformers import Trainer
from transformers.training_args import OptimizerNames

from hf_worm.config import WormConfig

# How training may be distributed: every process holds all of every weight, and of its averaged gradient.
SUPPORTED = {DistributedType.NO} | {kind for kind in DistributedType if kind.startswith("MULTI_")}

# Optimizers that update each weight inside the backward pass, as soon as its gradient is there, and drop the gradient:
# none is left to truncate, and no step of the optimizer comes after which a ticket could be held.
STEPPING_IN_BACKWARD = (
    "lomo",
    "adalomo",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "apollo_adamw_layerwise",
)
# Optimizers whose step is the sign of a mean of gradients: the step stays as large, however small the gradients become.
STEPPING_BY_SIGN = ("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit")


def refuse_unsupported(trainer: Trainer, config: WormConfig) -> None:
    """Refuse a way to train under which truncating or holding would silently not work.

    Args:
        trainer (`Trainer`): As its own class has made it.
        config (`WormConfig`): The settings of the search.

    Raises:
        ValueError: Weights or gradients are spread over processes, the optimizer steps in the backward pass (LOMO,
            layer-wise GaLore and APOLLO), or by the sign of gradients that are to be truncated (Lion).
    """
    kind = trainer.accelerator.distributed_type
    if kind not in SUPPORTED:
        raise ValueError(
            f"`{type(trainer).__name__}` does not support {kind.value} training: it needs whole weights and gradients "
            "in every process. Use DistributedDataParallel: `torchrun` or `accelerate launch` without that plugin."
        )
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"`{type(trainer).__name__}` does not support `nn.DataParallel`, the choice of the Trainer for "
            f"{trainer.args.n_gpu} GPUs in one process. Launch a process for each GPU with `torchrun`, or show it one "
            "GPU (`CUDA_VISIBLE_DEVICES`)."
        )
    name = OptimizerNames(trainer.args.optim).value
    if name in STEPPING_IN_BACKWARD:
        ordinary = name.removesuffix("_layerwise") if "layerwise" in name else "adamw_torch"
        raise ValueError(
            f"`{type(trainer).__name__}` does not support `optim={name!r}`: it updates each weight inside the "
            "backward pass, so there is no gradient to truncate and no step after which pruned weights could be "
            f"set to 0. Use an optimizer with a step of its own, for example `optim={ordinary!r}`."
        )
    if name in STEPPING_BY_SIGN and config.truncation != 1 and config.truncation_target == "gradient":
        raise ValueError(
            f"`optim={name!r}` steps by the sign of the gradients, whatever their size: truncating them changes "
            "nothing. Truncate the step instead, `WormConfig(truncation_target='update')`, or do not truncate: "
            "`WormConfig.eb_train()`."
        )
