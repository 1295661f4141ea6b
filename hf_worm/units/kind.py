"""The interface of a kind of units: the words for it, how it is found, explained where it is missing, and cut out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from .layer import Granularity, RepresentativeLayer, View
from .names import Named, first_names
from .shrink import Kept, shrink_

Views = tuple[View, ...]


class Kind(ABC):
    """One kind of unit: single weights, channels, neurons or heads.

    Attributes:
        words (`tuple[str, ...]`): The words of `layers` that mean units of this kind.
        granularity (`str`): What one unit is called.
        definition (`str`): Clause that says what a unit owns.
        note (`str`): Sentence on how units are counted, where that is not obvious.
        of_many_weights (`bool`): Whether a unit owns more than a single weight or a channel's two.
        in_attention (`bool`): Whether the units belong to attentions.
        may_be_named (`bool`):
            Whether a name or pattern may mean the same parameters as one of the words: they remain units of this kind.
    """

    words: ClassVar[tuple[str, ...]]
    granularity: ClassVar[Granularity]
    definition: ClassVar[str]
    note: ClassVar[str] = ""
    of_many_weights: ClassVar[bool] = False
    in_attention: ClassVar[bool] = False
    may_be_named: ClassVar[bool] = False

    @abstractmethod
    def find(self, word: str, model: nn.Module, named: Named) -> Iterable[Views]:
        """Find the views of each layer that a word means.

        Args:
            word (`str`): One of `words`.
            model (`nn.Module`): The model.
            named (`list[tuple[str, nn.Parameter]]`): All its parameters.
        """

    @abstractmethod
    def would_find(self, word: str, name: str, model: nn.Module) -> bool:
        """Say whether a word would mean a weight of this name, were it a parameter and not computed from others."""

    @abstractmethod
    def describe(self, words: Sequence[str]) -> str:
        """Describe what the words look for, in the singular and without an article."""

    def reasons(self, words: Sequence[str], named: Named) -> Iterator[str]:
        """Explain why the words find nothing, in clauses.

        Args:
            words (`Sequence[str]`): Words of this kind.
            named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
        """
        return iter(())

    def whole_weights(self, named: Named) -> Named:
        """Find weights that hold what the words look for, and that can be watched as a whole instead."""
        return []

    def explain_unwatched(
        self, layers: Sequence[str], unwatched: Named, model: nn.Module, named: Named
    ) -> Iterator[str]:
        """Explain which parts of the model the words leave out though they train, for warnings.

        Args:
            layers (`Sequence[str]`): The entries of `layers`, words of this kind among them.
            unwatched (`list[tuple[str, nn.Parameter]]`): The parameters that train and belong to no unit.
            model (`nn.Module`): The model.
            named (`list[tuple[str, nn.Parameter]]`): All its parameters.
        """
        return iter(())

    @abstractmethod
    def require_cuttable(self, model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
        """Raise a `ValueError` if units of these layers, all of this kind, can't be cut out of the model."""

    @abstractmethod
    def cut_(self, model: nn.Module, layers: Sequence[RepresentativeLayer], kept: Kept) -> None:
        """Cut units out of a model, in place.

        Args:
            model (`nn.Module`): The model; what is cut out is 0 in it.
            layers (`Sequence[RepresentativeLayer]`): Its layers of this kind.
            kept (`dict[str, list[int]]`): The units that stay, ascending, by the layer's name.
        """


class LargerKind(Kind):
    """Units of many weights, which lie along the first dimension of a layer's views.

    A smaller model of Transformers says in its configuration how many there are: in the configuration's own fields, or
    else in a record that `hf_worm.compact` reads.
    """

    of_many_weights = True

    @property
    def word(self) -> str:
        """The one word for these units, which the record goes by too."""
        return self.words[0]

    def cut_(self, model: nn.Module, layers: Sequence[RepresentativeLayer], kept: Kept) -> None:
        """Replace the layers' weights by smaller ones, in place; weights on the device `meta` too.

        Raises:
            ValueError: No unit of a layer stays.
        """
        emptied = [layer.name for layer in layers if not kept[layer.name]]
        if emptied:
            raise ValueError(f"The ticket keeps no unit of {first_names(emptied)}: a layer needs at least one.")
        for layer in layers:
            self.update_modules_(model, layer, kept[layer.name])
            shrink_(model, layer, kept[layer.name])

    def update_modules_(self, model: nn.Module, layer: RepresentativeLayer, units: list[int]) -> None:
        """Tell the modules around a layer which of its units stay, before its weights are replaced."""
        return None

    @abstractmethod
    def fields(
        self, config: Any, layers: Sequence[RepresentativeLayer], changes: Mapping[int, int]
    ) -> Iterator[dict[str, int]]:
        """Propose values of a configuration's fields that may say the numbers of units, likely ones first.

        Args:
            config: The configuration, of the model as it was.
            layers (`Sequence[RepresentativeLayer]`): The smaller model's layers.
            changes (`dict[int, int]`): How many units a layer has now, by how many it had.
        """

    @abstractmethod
    def to_record(self, kept: Kept, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a record says of layers.

        Args:
            kept (`dict[str, list[int]]`): The units that stayed, by layer.
            earlier (`dict`): What the record said of layers before, if units had been cut out already.
        """

    @abstractmethod
    def from_record(self, value: Any) -> list[int]:
        """Return the units that stay, from what a record says of a layer."""

    @abstractmethod
    def require_recordable(self, value: Any) -> None:
        """Raise a `TypeError` if a record can't say that of a layer."""
