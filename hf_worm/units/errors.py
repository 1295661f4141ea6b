"""Messages about layers that can't be watched: what was got, what is needed, and the setting to use."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from . import families
from .kind import Kind
from .kinds import KINDS, WORDS
from .names import LISTED, Named, first_groups, first_names, group, in_attention, pattern
from .neurons import experts

ADAPTER = f".{families.ADAPTER_BASE}."
MERGE = (
    "Train the full model, or merge the adapter first and train that: `model = model.merge_and_unload()`, and "
    "`model.requires_grad_(True)`, for merging leaves it frozen."
)
SINGLE = "It can't be made smaller by them (`compact=True`). To prune single weights instead, name their layers"


def no_entries(layers: Sequence[str]) -> ValueError:
    """Return the error for `layers` that are no list of entries."""
    return ValueError(
        f"`layers` must be a list of at least one of {_quoted(WORDS, 'or')}, parameter names and patterns, got "
        f'{layers!r}. For example `WormConfig(layers=["query", "key"])`.'
    )


def unknown_entry(entry: str, model: nn.Module, named: Named) -> ValueError:
    """Return the error for a name or pattern that matches no parameter."""
    patterns = dict.fromkeys(pattern(name) for name, _ in named)
    close = get_close_matches(pattern(entry), [*WORDS, *patterns], n=LISTED)
    hint = f"Close to it: {_quoted(close, 'and')}. " if close else ""
    return ValueError(
        f"`{entry}` in `layers` matches no parameter of `{type(model).__name__}`. {hint}"
        f"Give one of the words {_quoted(WORDS, 'and')}, "
        "or a name or shell-style pattern of `model.named_parameters()`."
    )


def no_layer_there(entry: str, names: Sequence[str]) -> ValueError:
    """Return the error for a word in places where the model has none of its layers.

    Args:
        entry (`str`): The entry of `layers`.
        names (`Sequence[str]`): Names of the layers that the word alone would find.
    """
    return ValueError(
        f"`{entry}` in `layers` finds nothing: what follows the `@` is a name or shell-style pattern of the layers "
        f"{first_names(names)}, and matches none of them."
    )


def not_found(missing: Sequence[str], present: Sequence[str], model: nn.Module, named: Named) -> ValueError:
    """Return the error for words that find nothing, with a setting that does.

    Args:
        missing (`Sequence[str]`): The words that find nothing.
        present (`Sequence[str]`): The words that would find something.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    by_kind = {kind: [word for word in missing if word in kind.words] for kind in KINDS}
    sought = {kind: words for kind, words in by_kind.items() if words}
    described = " and no ".join(kind.describe(words) for kind, words in sought.items())
    message = f"Found no {described} in `{type(model).__name__}`"
    if any(ADAPTER in name for name, _ in named):
        return ValueError(f"{message}: the adapter in it stands in the way. {MERGE}")
    reasons = [reason for kind, words in sought.items() for reason in kind.reasons(words, named)]
    whole = [weight for kind in sought for weight in kind.whole_weights(named)]
    groups = group(whole or _candidates(model, named), named)
    entries = sorted(groups, key=lambda entry: _rank(entry, groups, sought))
    message = ": ".join(filter(None, (message, "; ".join(reasons)))) + f". {_advice(sought, bool(whole))}"
    # Larger units own the single weights or channels that other words would find.
    single = [word for word in present if not WORDS[word].of_many_weights]
    example = entries[:1] if whole or not single else single
    if example:
        quoted = ", ".join(f'"{entry}"' for entry in example)
        message += f", for example `WormConfig(layers=[{quoted}])`"
    found = f" Words that find something in this model: {_quoted(present, 'and')}." if present else ""
    return ValueError(f"{message}.{found}{_listed(entries, groups)}")


def shared_in_part(weights: Named, model: nn.Module, named: Named) -> str:
    """Return the warning for units that are not watched, since some of their weights are those of another layer.

    Args:
        weights (`list[tuple[str, nn.Parameter]]`): Their other weights.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    return (
        f"`{type(model).__name__}` has layers that share some of their weights with others, but not all. One of them "
        f"is watched, and shared weights that it prunes are pruned in both; not watched: "
        f"{first_groups(weights, named)}."
    )


def computed_from_others(names: Sequence[str], model: nn.Module) -> str:
    """Return the warning for weights that words mean, and that are no parameters."""
    return (
        f"Not everything that `layers` means in `{type(model).__name__}` is watched: {first_names(names, LISTED)} "
        f"{'is' if len(names) == 1 else 'are'} computed from other parameters, by a parametrization or "
        "`torch.nn.utils.prune`. Put plain weights in their place first: "
        "`torch.nn.utils.parametrize.remove_parametrizations`, `torch.nn.utils.prune.remove`."
    )


def empty(name: str, parameter: nn.Parameter) -> ValueError:
    """Return the error for a parameter without a single weight."""
    return ValueError(
        f"`{name}` is of shape {tuple(parameter.shape)}: there is nothing in it to prune. Leave it out of `layers`, or "
        "make the search once it has its weights."
    )


def owned_twice(name: str, one: str, other: str) -> ValueError:
    """Return the error for a parameter that two entries of `layers` would prune as units of two kinds."""
    return ValueError(
        f"`{one}` and `{other}` in `layers` both own `{name}`, as units of two kinds: a weight can have but one mask. "
        "Leave one of them out."
    )


def two_ratios(name: str, ratios: Mapping[str, float | None]) -> ValueError:
    """Return the error for a parameter that two entries name with different ratios, or only one of them with a ratio.

    Args:
        name (`str`): The parameter's name.
        ratios (`dict[str, float | None]`): The two entries, with the ratio of each if it has one.
    """
    one, other = (
        f"`{entry}` ({'with the ratio of all' if ratio is None else f'ratio {ratio:g}'})"
        for entry, ratio in ratios.items()
    )
    return ValueError(
        f"{one} and {other} in `layers` both name `{name}`: which ratio is it to have? Name it once; a pattern such as "
        "`*.layer.[1-9]*.query.weight` leaves a layer out."
    )


def not_floating_point(name: str, parameter: nn.Parameter) -> ValueError:
    """Return the error for a parameter that holds no magnitudes, or too few different ones."""
    return ValueError(
        f"`{name}` is of type `{parameter.dtype}`, and a representative layer must be floating point of 16 bits or "
        "more: a quantized weight has no magnitudes to rank. Load the model without quantization, or leave this weight "
        "out of `layers`."
    )


def _candidates(model: nn.Module, named: Named) -> Named:
    """Find weights that can be named: of two dimensions or more, no embedding; experts kept together among them."""
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [
        (name, parameter)
        for name, parameter in named
        if name.endswith("weight") and parameter.dim() >= 2 and parameter not in embeddings
    ]
    return matrices + [one for one in experts(named) if not one[0].endswith("weight")]


def _rank(entry: str, groups: Mapping[str, Sequence[nn.Parameter]], sought: Mapping[Kind, object]) -> tuple[bool, int]:
    """Rank weights of attentions first where one was sought, else last; then the larger group."""
    attention = any(kind.in_attention for kind in sought)
    return in_attention(entry) != attention, -sum(parameter.numel() for parameter in groups[entry])


def _advice(sought: Mapping[Kind, object], whole: bool) -> str:
    """Return the beginning of a sentence that a setting follows."""
    if whole:
        return "Watch that weight as a whole by its name"
    return SINGLE if all(kind.of_many_weights for kind in sought) else "Name the layers to watch"


def _listed(entries: Sequence[str], groups: Mapping[str, Sequence[nn.Parameter]]) -> str:
    """List the first entries with the number and shapes of their weights."""
    if not entries:
        return ""
    lines = [f"`{entry}`: {_shapes(groups[entry])}" for entry in entries[:LISTED]]
    if len(entries) > LISTED:
        lines.append(f"and {len(entries) - LISTED} more")
    return " Candidates:" + "".join(f"\n  {line}" for line in lines)


def _shapes(parameters: Sequence[nn.Parameter]) -> str:
    shapes = {tuple(parameter.shape) for parameter in parameters}
    shape = f"shape {shapes.pop()}" if len(shapes) == 1 else f"{len(shapes)} shapes"
    return f"{len(parameters)} of {shape}"


def _quoted(words: Sequence[str] | Mapping[str, object], conjunction: str) -> str:
    quoted = [f"`{word}`" for word in words]
    return f" {conjunction} ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
