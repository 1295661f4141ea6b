"""What a run tells while it trains: each observation, each evaluation around the draw, why nothing is retrained."""

from collections.abc import Mapping
from typing import Any

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.metrics import STAGES
from hf_worm.report.progress import Progress
from hf_worm.search import FADE_BOUND, sampling_advice


def observation_line(observation: Observation, config: WormConfig, epoch: float) -> str:
    """Describe an observation in a line: "epoch 2: mask distance max 0.0023, mean 0.0023; below 0.015: truncating"."""
    if observation.max_distance is None or observation.mean_distance is None:
        return f"epoch {epoch:g}: first masks taken, nothing to compare them with yet"
    distances = f"max {observation.max_distance:.4f}, mean {observation.mean_distance:.4f}"
    line = f"epoch {round(epoch, 4):g}: mask distance {distances}"
    share = observation.doomed_share
    if share is not None:
        line += f", weights to be pruned {share:.1%} of the L1 norm"
    if observation.converged:
        faded = "" if share is None else f", weights to be pruned below {FADE_BOUND:.0%}"
        return f"{line}; max below {config.stopping_point:g}{faded}: converged"
    if not observation.truncating or not config.truncates:
        return line
    doing = "truncating" if share is None else "fading"
    trigger = config.stopping_point + config.margin
    return f"{line}; below {trigger:g}: {doing}" if observation.mean_distance < trigger else f"{line}; {doing}"


def observation_logs(observation: Observation, sparsity: float) -> dict[str, Any]:
    """Name the values of an observation for a Trainer's log, where it has them.

    Args:
        observation (`Observation`): The observation.
        sparsity (`float`): Share of the units that its mask prunes.
    """
    logs = {
        "worm_max_distance": observation.max_distance,
        "worm_mean_distance": observation.mean_distance,
        "worm_truncating": observation.truncating,
        "worm_doomed_share": observation.doomed_share,
        "worm_sparsity": sparsity,
    }
    return {name: value for name, value in logs.items() if value is not None}


def stage_line(stage: str, metrics: Mapping[str, float]) -> str:
    """Describe an evaluation around the draw in a line: "drawn: accuracy 0.8410, loss 0.3620"."""
    title = STAGES.get(stage, stage.replace("_", " "))
    return f"{title}: {', '.join(f'{name} {value:.4f}' for name, value in metrics.items())}"


def none_left(progress: Progress, config: WormConfig) -> str:
    """Say that the search has left no step to retrain, and what to do about it."""
    return (
        f"The run has taken {sum(progress.steps.values())} optimizer steps, all that were planned, and "
        "`retrain_schedule='continue'` leaves none to retrain. Plan more (`num_train_epochs`, `max_steps`), or "
        f"{sampling_advice(config)}."
    )
