"""What a run tells people: a line for each observation, and why there is no convergence or no retraining."""

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.run import Progress
from hf_worm.search import FADE_BOUND, TicketSearch


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


def not_converged(search: TicketSearch, epochs: float) -> str:
    """Why a search ended without convergence, and what to do about it.

    Args:
        search (`TicketSearch`): The search.
        epochs (`float`): Those that it took.
    """
    config, seen, count = search.config, search.history[-1], len(search.history)
    largest = "none" if seen.max_distance is None else format(seen.max_distance, ".4g")
    takes, had = f"a largest distance below {config.stopping_point:g}", largest
    advice = ["Train for more epochs"]
    if seen.doomed_share is not None:
        takes += f", with less than {FADE_BOUND:.0%} of the L1 norm in the weights to be pruned"
        had += f", with {seen.doomed_share:.1%}"
        if seen.doomed_share >= FADE_BOUND:
            advice.append(f"let them fade faster (`fade_epochs`, now {config.fade_epochs:g})")
    if count < config.window:
        advice.append("sample more often (`sample_strategy='steps'`)")
    return (
        f"The masks had not converged when the search ended after {epochs:.4g} epochs: that takes {config.window} "
        f"observations and {takes}; it had {count} and {had}. The newest mask is drawn. {', or '.join(advice)}."
    )


def none_left(progress: Progress) -> str:
    """That the search left no step to retrain, and what to do about it."""
    return (
        f"The run has taken {sum(progress.steps.values())} optimizer steps, all that were planned, and "
        "`retrain_schedule='continue'` leaves none to retrain. Plan more (`num_train_epochs`, `max_steps`), or sample "
        "more often (`sample_strategy='steps'`)."
    )
