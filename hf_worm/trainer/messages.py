"""What a run tells people: a line for each observation, and why there is no retraining."""

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.progress import Progress
from hf_worm.search import FADE_BOUND, sampling_advice

NO_CONFIG = "This trainer has no `worm_config`: it can `train()`, as its parent class does."


def observation_line(seen: Observation, config: WormConfig, epoch: float) -> str:
    """One line on an observation: "epoch 2: mask distance max 0.0023, mean 0.0023; below 0.015: truncating"."""
    if seen.max_distance is None or seen.mean_distance is None:
        return f"epoch {epoch:g}: first masks taken, nothing to compare them with yet"
    line = f"epoch {round(epoch, 4):g}: mask distance max {seen.max_distance:.4f}, mean {seen.mean_distance:.4f}"
    if seen.doomed_share is not None:
        line += f", doomed weights {seen.doomed_share:.1%} of the L1 norm"
    if seen.converged:
        faded = "" if seen.doomed_share is None else f", doomed below {FADE_BOUND:.0%}"
        return f"{line}; max below {config.stopping_point:g}{faded}: converged"
    if not seen.truncating or not config.truncates:
        return line
    doing = "truncating" if seen.doomed_share is None else "fading"
    trigger = config.stopping_point + config.margin
    return f"{line}; below {trigger:g}: {doing}" if seen.mean_distance < trigger else f"{line}; {doing}"


def none_left(progress: Progress, config: WormConfig) -> str:
    """That the search left no step to retrain, and what to do about it."""
    return (
        f"The run has taken {sum(progress.steps.values())} optimizer steps, all that were planned, and "
        "`retrain_schedule='continue'` leaves none to retrain. Plan more (`num_train_epochs`, `max_steps`), or "
        f"{sampling_advice(config)}."
    )
