"""Numbers and names as people read them: the one place that decides on digits and units."""

from collections.abc import Sequence

from hf_worm.config import split_ratios


def number(value: float | None, digits: int = 4, missing: str = "") -> str:
    """Write a number with `digits` decimals, and `missing` for `None`."""
    return missing if value is None else f"{value:.{digits}f}"


def distance(value: float | None) -> str:
    """Write a mask distance, and a dash where there is none."""
    return number(value, 5, "-")


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage, and a dash for `None`."""
    return "-" if share is None else f"{share:.{digits}%}"


def counted(value: float, unit: str) -> str:
    """Write a number with its unit: "1 epoch", "2.5 epochs"."""
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{text} {unit}{'' if value == 1 else 's'}"


def milliseconds(times: dict[str, float], spread: bool) -> str:
    """Write the median of some times in seconds, with its quartiles if `spread`."""
    low, median, high = (1000 * times[name] for name in ("low", "median", "high"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})" if spread else f"{median:.2f}"


def layer_words(entries: Sequence[str]) -> str:
    """List the entries of `WormConfig.layers` without their ratios; patterns in backticks, for `*` is Markdown's."""
    return ", ".join(name if name.isalpha() else f"`{name}`" for name in split_ratios(entries))


def shortened(text: str, most: int) -> str:
    """Keep the end of a text longer than `most` characters, where names differ, after an ellipsis."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def short_names(names: Sequence[str], separator: str) -> list[str]:
    """Cut off what [`shared_ends`] finds in all of the names."""
    before, after = shared_ends(names, separator)
    return [name[len(before) : len(name) - len(after)] for name in names]


def shared_ends(names: Sequence[str], separator: str) -> tuple[str, str]:
    """Find the beginning and the end that all names share, in whole parts with their separators.

    At least one part of each name remains.

    Args:
        names (`Sequence[str]`): Names, such as those of parameters.
        separator (`str`): The text between their parts.
    """
    split = [name.split(separator) for name in names]
    if len(set(names)) < 2:
        return "", ""
    shortest = min(map(len, split))
    start = _common(split, shortest - 1)
    end = _common([parts[::-1] for parts in split], shortest - 1 - start)
    first = split[0]
    before = "".join(part + separator for part in first[:start])
    after = "".join(separator + part for part in first[len(first) - end :])
    return before, after


def _common(split: Sequence[Sequence[str]], most: int) -> int:
    """Count the parts, at most `most`, that are the same in all names from the beginning on."""
    for place in range(most):
        if len({parts[place] for parts in split}) > 1:
            return place
    return most
