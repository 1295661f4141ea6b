"""A task, as far as a command has to know it."""

from dataclasses import dataclass

VALIDATION_SPLITS = (("", "validation"),)


@dataclass(frozen=True)
class Task:
    """A classification, or a regression.

    Args:
        name (`str`): Its name; that of its configuration on the Hub, where it has one.
        columns (`tuple[str, ...]`): The columns of the input.
        labels (`tuple[str, ...]`): Names of the classes, in the order of their ids; empty: a regression.
        metrics (`tuple[str, ...]`): Names of the metrics, as they are reported.
        validation (`tuple[tuple[str, str], ...]`, *optional*, defaults to the split `validation`):
            Of each validation split the name that its metrics get (`""`: the only one, which needs none) and its own.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[tuple[str, str], ...] = VALIDATION_SPLITS

    @property
    def is_regression(self) -> bool:
        """Tell whether the label is a number, not a class."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the model's head."""
        return len(self.labels) or 1
