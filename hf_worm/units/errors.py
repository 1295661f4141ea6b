"""What to say when the layers asked for are not there: what was looked for, what there is, and the setting to use."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

from .layer import WORDS
from .names import Named, firsts, group, pattern
from .neurons import experts
from .weights import FAMILIES, ROLES, fused_projections, in_attention

LARGER = ("neurons", "heads")  # units of many weights
LISTED = 5  # candidates, close matches or names in one message
MERGE = (
    "Train the full model, or merge the adapter first and train that: `model = model.merge_and_unload()`, and "
    "`model.requires_grad_(True)`, for merging leaves it frozen."
)
SINGLE = "It can't be made smaller by them (`compact=True`). To prune single weights instead, name their layers"


def no_entries(layers: Sequence[str]) -> ValueError:
    """For `layers` that are no list of entries."""
    words = _join([f"`{word}`" for word in WORDS], "or")
    return ValueError(
        f"`layers` must be a list of at least one of {words}, parameter names and patterns, got {layers!r}. "
        'For example `WormConfig(layers=["query", "key"])`.'
    )


def unknown_entry(entry: str, model: nn.Module, named: Named) -> ValueError:
    """For a name or pattern that matches no parameter."""
    patterns = dict.fromkeys(pattern(name) for name, _ in named)
    close = get_close_matches(pattern(entry), [*WORDS, *patterns], n=LISTED)
    hint = f"Close to it: {_join([f'`{match}`' for match in close], 'and')}. " if close else ""
    return ValueError(
        f"`{entry}` in `layers` matches no parameter of `{type(model).__name__}`. {hint}"
        f"Give one of the words {_join([f'`{word}`' for word in WORDS], 'and')}, "
        "or a name or shell-style pattern of `model.named_parameters()`."
    )


def nowhere(entry: str, names: Sequence[str]) -> ValueError:
    """For a word in places where the model has none of it.

    Args:
        entry (`str`): The entry of `layers`.
        names (`Sequence[str]`): Names of the layers that the word alone would find.
    """
    return ValueError(
        f"`{entry}` in `layers` finds nothing: what follows the `@` is a name or shell-style pattern of the layers "
        f"{firsts(names)}, and matches none of them."
    )


def not_found(missing: Sequence[str], present: Sequence[str], model: nn.Module, named: Named) -> ValueError:
    """For words of `layers` that find nothing in this model.

    Args:
        missing (`Sequence[str]`): The words that find nothing.
        present (`Sequence[str]`): The words that would find something.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    roles = [word for word in missing if word in ROLES]
    sought = [f"{_join(roles, 'or')} projection"] if roles else []
    described = {
        "batchnorm": "BatchNorm with affine parameters",
        "neurons": "feed-forward block of `nn.Linear` that go by known names (`fc1`/`fc2`, ...)",
        "heads": "attention with separate query, key, value and output projections that tells the width of its heads",
    }
    sought += [description for word, description in described.items() if word in missing]
    message = f"Found no {' and no '.join(sought)} in `{type(model).__name__}`"
    if any(".base_layer." in name for name, _ in named):
        return ValueError(f"{message}: the adapter in it stands in the way. {MERGE}")

    fused = fused_projections(named) if roles else []
    if fused:
        groups = group(fused, named)
        message += ": query, key and value are fused in one weight. Watch that weight as a whole by its name"
    else:
        groups = group(_matrices(model, named) + (experts(named) if "neurons" in missing else []), named)
        if "neurons" in missing and experts(named):
            message += " (experts that are kept together in one weight are none)"
        if "query" in roles or "key" in roles:
            pairs = ", ".join(f"`{query}`/`{key}`" for query, key, _ in FAMILIES[:LISTED])
            message += f": no module has separate query and key projections that go by a known name ({pairs}, ...)"
        message += ". " + ("Name the layers to watch" if roles or "batchnorm" in missing else SINGLE)
    # Weights of an attention first where one was sought, else last; then the larger group.
    sought_attention = bool(roles) or "heads" in missing
    entries = sorted(
        groups, key=lambda name: (in_attention(name) != sought_attention, -sum(p.numel() for p in groups[name]))
    )
    single = [word for word in present if word not in LARGER]  # larger units own what the others would
    example = entries[:1] if fused else single or entries[:1]
    if example:
        quoted = ", ".join(f'"{entry}"' for entry in example)
        message += f", for example `WormConfig(layers=[{quoted}])`"
    message += "."
    if present:
        message += f" Words that find something in this model: {_join([f'`{word}`' for word in present], 'and')}."
    if entries:
        candidates = "".join(f"\n  `{entry}`: {_describe(groups[entry])}" for entry in entries[:LISTED])
        more = f"\n  and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
        message += f" Candidates:{candidates}{more}"
    return ValueError(message)


def left_out(layers: Sequence[str], fused: Named, model: nn.Module, named: Named) -> str:
    """The warning for attentions with a fused projection, in a model where `layers` finds separate ones too.

    Args:
        layers (`Sequence[str]`): The entries, words among them.
        fused (`list[tuple[str, nn.Parameter]]`): The fused projections that no entry means.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    entries = list(group(fused, named))
    setting = ", ".join(f'"{entry}"' for entry in [*layers, *entries[:LISTED]])
    return (
        f"Not all attentions of `{type(model).__name__}` are watched: some have query, key and value fused in one "
        f"weight: {firsts(entries, LISTED)}. Watch those weights as a whole too, `WormConfig(layers=[{setting}])`, or, "
        "if they are to be left out, name the others by patterns instead of words."
    )


def experts_left_out(experts: Named, model: nn.Module, named: Named) -> str:
    """The warning for experts kept together in one weight, in a model where `"neurons"` finds feed-forward blocks too.

    Args:
        experts (`list[tuple[str, nn.Parameter]]`): Their weights.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    weights = sum(weight.numel() for _, weight in experts)
    return (
        f"Not all feed-forward blocks of `{type(model).__name__}` are watched: experts that are kept together in one "
        f"weight are not ({firsts(list(group(experts, named)), LISTED)}: {weights:,} weights)."
    )


def blocks_left_out(leading_out: Named, model: nn.Module, named: Named) -> str:
    """The warning for feed-forward blocks that are not known, in a model where `"neurons"` finds others.

    Args:
        leading_out (`list[tuple[str, nn.Parameter]]`): The projections out of them.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    return (
        f"Not all feed-forward blocks of `{type(model).__name__}` are watched: not those that "
        f"{firsts(list(group(leading_out, named)), LISTED)} leads out of, for want of projections into them that go "
        "by known names and have as many neurons."
    )


def heads_left_out(queries: Named, model: nn.Module, named: Named) -> str:
    """The warning for attentions whose heads are not known, in a model where `"heads"` finds those of others.

    Args:
        queries (`list[tuple[str, nn.Parameter]]`): Their query projections.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    return (
        f"Not all attentions of `{type(model).__name__}` are watched: the heads of some are not known, for want of "
        f"an output projection or of a head's width, or since they share more than keys and values: "
        f"{firsts(list(group(queries, named)), LISTED)}."
    )


def partly_shared(weights: Named, model: nn.Module, named: Named) -> str:
    """The warning for units that are left out, since some of their weights are those of another layer's units.

    Args:
        weights (`list[tuple[str, nn.Parameter]]`): Their other weights.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    return (
        f"`{type(model).__name__}` has layers that share some of their weights with others, but not all. One is "
        f"watched, and what it prunes of the shared weights is pruned in both; not watched: "
        f"{firsts(list(group(weights, named)), LISTED)}."
    )


def derived(names: Sequence[str], model: nn.Module) -> str:
    """The warning for weights that words mean, and that are no parameters."""
    return (
        f"Not all of `{type(model).__name__}` that is named is watched: {firsts(names, LISTED)} "
        f"{'is' if len(names) == 1 else 'are'} made of other parameters, by a parametrization or "
        "`torch.nn.utils.prune`. Put plain weights in their place first: "
        "`torch.nn.utils.parametrize.remove_parametrizations`, `torch.nn.utils.prune.remove`."
    )


def empty(name: str, parameter: nn.Parameter) -> ValueError:
    """For a parameter without a single weight."""
    return ValueError(
        f"`{name}` is of shape {tuple(parameter.shape)}: there is nothing in it to prune. Leave it out of `layers`, or "
        "make the search once it has its weights."
    )


def owned_twice(name: str, one: str, other: str) -> ValueError:
    """For a parameter parts of which two entries of `layers` would prune as units of two kinds."""
    return ValueError(
        f"`{one}` and `{other}` in `layers` both own `{name}`, as units of two kinds: a weight can have but one mask. "
        "Leave one of them out."
    )


def two_ratios(name: str, ratios: Mapping[str, float | None]) -> ValueError:
    """For a parameter that two entries of `layers` name, with a ratio each, or one of them with none of its own."""
    one, other = (
        f"`{entry}` ({'with the ratio of all' if ratio is None else f'ratio {ratio:g}'})"
        for entry, ratio in ratios.items()
    )
    return ValueError(
        f"{one} and {other} in `layers` both name `{name}`: which ratio is it to have? Name it once; a pattern such as "
        "`*.layer.[1-9]*.query.weight` leaves a layer out."
    )


def not_optimized(names: Sequence[str], total: int, optimizer: str) -> ValueError:
    """For layers that an optimizer does not train.

    Args:
        names (`Sequence[str]`): Their names.
        total (`int`): How many layers are watched in all.
        optimizer (`str`): The optimizer's class.
    """
    return ValueError(
        f"{len(names)} of {total} representative layers are not among the parameters of this `{optimizer}`: "
        f"{firsts(names)}. Its steps don't train them. Make one optimizer for all that is watched, of the model's "
        "parameters as they are now: `fully_shard` and `ticket.compact`, for two, put new ones in their place."
    )


def not_floating_point(name: str, parameter: nn.Parameter) -> ValueError:
    """For a parameter that holds no magnitudes, or too few."""
    return ValueError(
        f"`{name}` is of type `{parameter.dtype}`, and a representative layer must be floating point of 16 bits or "
        "more: a quantized weight has no magnitudes to rank. Load the model without quantization, or leave this weight "
        "out of `layers`."
    )


def frozen(names: Sequence[str], total: int, larger: bool = False) -> ValueError:
    """For layers that do not train.

    Args:
        names (`Sequence[str]`): Names of the frozen layers.
        total (`int`): How many layers are watched in all.
        larger (`bool`, *optional*, defaults to `False`): Whether their units are neurons or heads.
    """
    message = f"{len(names)} of {total} representative layers are frozen (`requires_grad=False`): {firsts(names)}. "
    if any(".base_layer." in name for name in names):
        message += (
            "The adapter around them trains and the base weight does not, so its mask never moves and there is nothing "
            f"to search. {MERGE}"
        )
    else:
        unit, word = ("unit", "neurons") if larger else ("weight", "query")
        message += (
            f"The mask of a frozen {unit} never moves, so there is nothing to search. Unfreeze them "
            "(`parameter.requires_grad_(True)`), or name the places that train: "
            f'`WormConfig(layers=["{word}@*.layer.[6-9].*"])`.'
        )
    return ValueError(message)


def partly_frozen(names: Sequence[str]) -> ValueError:
    """For layers whose units own frozen weights beside others that train.

    Args:
        names (`Sequence[str]`): Names of the layers.
    """
    return ValueError(
        f"Units of {firsts(names)} own frozen weights (`requires_grad=False`) beside others that train: what of them "
        "is doomed could not fade, and would be pruned all the same. A neuron is rows, biases and a column of its "
        "block's projections, a head those of query, key, value and output, a channel γ and β: train all of them."
    )


def _matrices(model: nn.Module, named: Named) -> Named:
    """Weights of two dimensions or more that are no embedding."""
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        (name, parameter)
        for name, parameter in named
        if name.endswith("weight") and parameter.dim() >= 2 and parameter not in embeddings
    ]


def _describe(parameters: Sequence[nn.Parameter]) -> str:
    shapes = {tuple(parameter.shape) for parameter in parameters}
    shape = f"shape {shapes.pop()}" if len(shapes) == 1 else f"{len(shapes)} shapes"
    return f"{len(parameters)} of {shape}"


def _join(words: Sequence[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
