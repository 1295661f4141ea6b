"""Settings: what is refused, the presets, the command line, and files."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_worm.config import WormConfig

# A value for every setting that is not its default.
OTHER: dict[str, Any] = {
    "prune_ratio": 0.3,
    "truncation": 0.01,
    "stopping_point": 0.2,
    "margin": 0.02,
    "window": 4,
    "layers": ["query", "*.value.weight"],
    "scope": "global",
    "truncation_target": "update",
    "sample_strategy": "steps",
    "sample_steps": 50,
    "retrain_epochs": 2.5,
    "truncate_from": "start",
    "fade_epochs": 0.5,
    "compact": True,
    "retrain_schedule": "restart",  # the only one that `compact` goes with
    "score": "magnitude",  # the only one that `truncate_from="start"` goes with
    "score_decay": None,
    "schedule": "early_bird",  # the only one that "start" and "update" go with
    "ramp_epochs": 2.0,
    "search_share": 0.5,
    "speedup": 2.5,
    "speedup_by": "time",
    "distillation": 0.25,
    "distillation_temperature": 4.0,
}
# What does not go with these.
PARTS: dict[str, Any] = {
    "retrain_schedule": "continue",
    "score": "fisher",
    "score_decay": 0.9,
    "schedule": "cubic",
    "ramp_epochs": 1.5,
}


def test_the_other_values_cover_every_setting() -> None:
    defaults = dataclasses.asdict(WormConfig())
    assert list(OTHER) == list(defaults)
    same = [name for name in defaults if OTHER[name] == defaults[name]]
    assert same == ["retrain_schedule", "score", "score_decay", "schedule"]
    assert all(PARTS[name] != defaults[name] for name in same)


def test_defaults_are_the_papers_for_transformers() -> None:
    assert dataclasses.asdict(WormConfig()) == {
        "prune_ratio": 0.5,
        "truncation": 0.003,
        "stopping_point": 0.01,
        "margin": 0.005,
        "window": 3,
        "layers": ["query", "key"],
        "scope": "layer",
        "truncation_target": "gradient",
        "sample_strategy": "epoch",
        "sample_steps": None,
        "retrain_epochs": 1.0,
        "truncate_from": "trigger",
        "fade_epochs": 1.0,
        "compact": False,
        "retrain_schedule": "restart",
        "score": "magnitude",
        "score_decay": None,
        "schedule": "early_bird",
        "ramp_epochs": 1.0,
        "search_share": None,
        "speedup": None,
        "speedup_by": "multiply_adds",
        "distillation": 0.0,
        "distillation_temperature": 2.0,
    }


def test_eb_train_is_no_truncation() -> None:
    assert WormConfig.eb_train() == WormConfig(truncation=1.0)
    assert WormConfig.eb_train(prune_ratio=0.7) == WormConfig(truncation=1.0, prune_ratio=0.7)
    assert WormConfig.eb_train(truncation=0.5) == WormConfig(truncation=0.5)


def test_cnn_is_the_papers_for_cnns() -> None:
    expected = WormConfig(
        prune_ratio=0.5, truncation=0.003, stopping_point=0.1, margin=0.05, window=5, layers=["batchnorm"]
    )
    assert WormConfig.cnn() == expected
    assert WormConfig.cnn(window=2, scope="global") == dataclasses.replace(expected, window=2, scope="global")


def test_fade_is_worm_with_weights_that_shrink() -> None:
    assert WormConfig.fade() == WormConfig(truncation_target="fade", retrain_schedule="continue")
    assert WormConfig.fade(retrain_schedule="restart") == WormConfig(truncation_target="fade")
    assert WormConfig.fade(prune_ratio=0.8, fade_epochs=2.0).fade_epochs == 2.0


@pytest.mark.parametrize(
    ("config", "method", "truncates"),
    [
        (WormConfig(), "WORM", True),
        (WormConfig(truncation_target="update"), "WORM", True),
        (WormConfig.eb_train(), "EB Train", False),
        (WormConfig.eb_train(truncation_target="update"), "EB Train", False),
        (WormConfig.fade(), "WORM with fading", True),
        (WormConfig.fade(truncation=1.0), "WORM with fading", True),
        (WormConfig(schedule="cubic"), "gradual pruning", False),
    ],
)
def test_the_name_of_the_method(config: WormConfig, method: str, truncates: bool) -> None:
    assert (config.method, config.truncates) == (method, truncates)


NAN, INF = float("nan"), float("inf")
NUMBERS = (
    *("prune_ratio", "truncation", "stopping_point", "margin", "retrain_epochs", "fade_epochs", "ramp_epochs"),
    *("distillation", "distillation_temperature"),
)
ABOVE_ZERO = ("fade_epochs", "ramp_epochs", "distillation_temperature")
WRONG = [
    *((name, value, "must be a finite number") for name in NUMBERS for value in (NAN, INF, -INF, "0.5", None, True)),
    *(("prune_ratio", value, "must be in [0, 1)") for value in (-0.1, 1, 1.0, 1.5)),
    *(
        (name, value, "must be in [0, 1]")
        for name in ("truncation", "stopping_point", "distillation")
        for value in (-0.003, 2)
    ),
    *((name, value, "must be at least 0") for name in ("margin", "retrain_epochs") for value in (-0.005, -1)),
    *(("compact", value, "must be true or false") for value in ("yes", 1, None)),
    *((name, value, "must be above 0") for name in ABOVE_ZERO for value in (0, 0.0, -1.0)),
    *(("search_share", value, "must be in (0, 1)") for value in (0, 1, -0.5, NAN, "0.5", True)),
    *(("speedup", value, "must be a number above 1") for value in (0.5, 1, NAN, INF, "2", True)),
    *(("score_decay", value, "must be in [0, 1)") for value in (-0.1, 1, 1.5, NAN, "0.9", True)),
    *(("scope", value, "must be one of") for value in ("4:2", "2:2", "0:4", "2:", "2:4:8", "02:4", "2 : 4")),
    *(("window", value, "must be a whole number of at least 2") for value in (1, 0, -3, 3.0, "3", None, True)),
    *(("layers", value, "must be a list of strings") for value in ("query", None, 3, [1], ["query", None], {"query"})),
    *(
        (name, value, "must be one of")
        for name in (
            "scope",
            "truncation_target",
            "truncate_from",
            "retrain_schedule",
            "score",
            "schedule",
            "speedup_by",
        )
        for value in ("model", "", None, [])
    ),
    *(("sample_strategy", value, "must be one of") for value in ("no", "Epoch", None)),
]


@pytest.mark.parametrize(("name", "value", "need"), WRONG)
def test_a_wrong_value_is_refused_with_the_setting_what_it_needs_and_what_it_got(
    name: str, value: Any, need: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"`{name}` {need}")) as error:
        WormConfig(**{name: value})
    got = str(error.value).partition(" got ")[2]
    assert got.startswith((repr(value), str(value)))


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="`layers` is empty: name at least one layer"):
        WormConfig(layers=[])


@pytest.mark.parametrize("value", [None, 0, -5, 2.0, "10", True])
def test_step_sampling_needs_a_number_of_steps(value: Any) -> None:
    message = f"`sample_strategy='steps'` needs `sample_steps`, a whole number of at least 1, got {value!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        WormConfig(sample_strategy="steps", sample_steps=value)


def test_a_number_of_steps_needs_step_sampling() -> None:
    with pytest.raises(ValueError, match=re.escape("`sample_steps=10` needs `sample_strategy='steps'`, got 'epoch'.")):
        WormConfig(sample_steps=10)


@pytest.mark.parametrize(
    "settings",
    [
        {"prune_ratio": 0, "truncation": 0, "stopping_point": 0, "margin": 0, "retrain_epochs": 0},
        {"prune_ratio": 0.999, "truncation": 1, "stopping_point": 1, "margin": 10.0, "window": 2},
        {"sample_strategy": "steps", "sample_steps": 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(settings: dict[str, Any]) -> None:
    config = WormConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_numbers_of_numpy_are_pythons() -> None:
    config = WormConfig(prune_ratio=np.float32(0.25), stopping_point=np.float64(0.5), window=np.int64(4))  # type: ignore[arg-type]
    assert repr(config) == repr(WormConfig(prune_ratio=0.25, stopping_point=0.5, window=4))
    with pytest.raises(ValueError, match="`prune_ratio` must be a finite number, got nan"):
        WormConfig(prune_ratio=np.float32("nan"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`window` must be a whole number of at least 2, got 3\.0"):
        WormConfig(window=np.float64(3))  # type: ignore[arg-type]


def test_a_smaller_model_has_a_schedule_of_its_own() -> None:
    with pytest.raises(ValueError, match="`compact=True` and `retrain_schedule='continue'` contradict each other"):
        WormConfig(retrain_schedule="continue", layers=["neurons"], compact=True)


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"score_decay": 0.9}, "`score_decay=0.9` averages gate gradients, and `score='magnitude'` has none. Use"),
    ({"score": "taylor", "truncate_from": "start"}, "`score='taylor'` has gathered no gradients yet. Use"),
    ({"scope": "1:4"}, "`scope='1:4'` prunes 0.75 of the weights, got `prune_ratio=0.5`. Set `prune_ratio=0.75`"),
    ({"scope": "2:4", "layers": ["query=0.5"]}, "`query=0.5` in `layers` has a ratio of its own, and `scope='2:4'`"),
    ({"scope": "global", "layers": ["query=0.5"]}, "`query=0.5` in `layers` has a ratio of its own"),
    ({"scope": "2:4", "schedule": "cubic"}, "with `schedule='cubic'` it rises. Use `schedule='early_bird'`"),
    ({"scope": "2:4", "compact": True}, "`compact=True` cuts whole neurons, heads or channels out. Set"),
    ({"schedule": "cubic", "truncation_target": "fade"}, "`truncation_target='fade'` truncates what"),
    ({"schedule": "cubic", "truncate_from": "start"}, "`truncate_from='start'` truncates what"),
]


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused_with_a_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        WormConfig(**settings)


@pytest.mark.parametrize(
    ("scope", "ratio"), [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5), ("1:3", 1 - 1 / 3), ("3:32", 0.90625)]
)
def test_n_of_m_goes_with_its_ratio(scope: str, ratio: float) -> None:
    assert WormConfig(scope=scope, prune_ratio=ratio).scope == scope


@pytest.mark.parametrize("name", OTHER)
def test_settings_stay_as_they_were_validated(name: str) -> None:
    config = WormConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, OTHER[name])
    with pytest.raises(ValueError, match="`window`"):
        dataclasses.replace(config, window=1)


def test_layers_are_a_list_of_the_configs_own() -> None:
    layers = ["query"]
    config = WormConfig(layers=layers)
    layers.append("key")
    assert config.layers == ["query"]
    assert WormConfig(layers=("query", "key")) == WormConfig()  # type: ignore[arg-type]
    assert WormConfig().layers is not WormConfig().layers


def as_flags(settings: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in settings.items():
        if value is None:  # as it is without the flag
            continue
        flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return flags


def test_every_setting_parses_beside_training_arguments(tmp_path: Path) -> None:
    parser = HfArgumentParser((TrainingArguments, WormConfig))
    training = ["--output_dir", str(tmp_path), "--learning_rate", "3e-5", "--num_train_epochs", "4"]
    args, config = parser.parse_args_into_dataclasses([*training, *as_flags(OTHER)])
    assert config == WormConfig(**OTHER)
    assert (args.output_dir, args.learning_rate, args.num_train_epochs) == (str(tmp_path), 3e-5, 4)
    assert parser.parse_args_into_dataclasses(training)[1] == WormConfig()
    assert parser.parse_args_into_dataclasses([*training, *as_flags(PARTS)])[1] == WormConfig(**PARTS)
    assert parser.parse_args_into_dataclasses([*training, "--scope", "2:4"])[1] == WormConfig(scope="2:4")


def test_every_setting_parses_from_a_dictionary_and_a_json_file(tmp_path: Path) -> None:
    parser = HfArgumentParser((TrainingArguments, WormConfig))
    settings = {"output_dir": str(tmp_path), "learning_rate": 3e-5, **OTHER}
    file = tmp_path / "all.json"
    file.write_text(json.dumps(settings))
    for args, config in (parser.parse_dict(settings), parser.parse_json_file(str(file))):
        assert config == WormConfig(**OTHER)
        assert args.learning_rate == 3e-5


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        HfArgumentParser(WormConfig).parse_args_into_dataclasses(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in OTHER if not re.search(rf"--{name}\b", text)] == []


@pytest.mark.parametrize("flags", [["--score", "worth"], ["--window", "three"], ["--prune_ratio", "half"]])
def test_a_flag_that_does_not_parse_is_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        HfArgumentParser(WormConfig).parse_args_into_dataclasses(flags)
    assert end.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "config", [WormConfig(), WormConfig(**OTHER), WormConfig(**PARTS), WormConfig.eb_train(), WormConfig.cnn()]
)
def test_saved_and_read_again(config: WormConfig, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on the way"
    config.save_pretrained(folder)
    assert WormConfig.from_pretrained(folder) == config
    assert WormConfig.from_pretrained(str(folder)) == config
    assert [path.name for path in folder.iterdir()] == ["worm_config.json"]
    assert json.loads((folder / "worm_config.json").read_text()) == dataclasses.asdict(config)


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    WormConfig(**OTHER).save_pretrained(tmp_path)
    WormConfig().save_pretrained(tmp_path)
    assert WormConfig.from_pretrained(tmp_path) == WormConfig()


def test_settings_that_are_not_in_the_file_have_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "worm_config.json").write_text('{"prune_ratio": 0.25}')
    assert WormConfig.from_pretrained(tmp_path) == WormConfig(prune_ratio=0.25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or not JSON"),
        (b'{"prune_ratio": 0.5, "trunc', "is damaged or not JSON"),
        (b"\xff\xfe\x00", "is damaged or not JSON"),
        (b"[0.5, 0.003]", "must hold a JSON object of settings, got a list"),
        (b"null", "must hold a JSON object of settings, got a NoneType"),
        (b'{"prune_ratio": 0.5, "zeta": 1, "beta": 2}', r"does not know: \['beta', 'zeta'\]"),
        (b'{"prune_ratio": 1.5}', r"`prune_ratio` must be in \[0, 1\), got 1.5"),
        (b'{"margin": NaN}', "`margin` must be a finite number, got nan"),
    ],
)
def test_a_damaged_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "worm_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        WormConfig.from_pretrained(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "worm_config.json"
    for content in ("", "[]", '{"beta": 2}'):
        file.write_text(content)
        with pytest.raises(ValueError, match=re.escape(str(file))):
            WormConfig.from_pretrained(tmp_path)


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} holds no `worm_config.json`")):
        WormConfig.from_pretrained(tmp_path)


def test_a_subfolder_is_read(tmp_path: Path) -> None:
    WormConfig().save_pretrained(tmp_path)
    WormConfig(**OTHER).save_pretrained(tmp_path / "checkpoint-9")
    assert WormConfig.from_pretrained(tmp_path, subfolder="checkpoint-9", revision="v1") == WormConfig(**OTHER)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'nowhere'} holds no `worm_config.json`")):
        WormConfig.from_pretrained(tmp_path, subfolder="nowhere")


def test_a_setting_is_no_option_of_the_hub(tmp_path: Path) -> None:
    WormConfig().save_pretrained(tmp_path)
    for place in (tmp_path, "someone/a-ticket"):
        with pytest.raises(TypeError, match=r"options of `hf_hub_download`, of which \['prune_ratio'\] are none"):
            WormConfig.from_pretrained(place, prune_ratio=0.9)


def test_a_repository_is_read_through_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WormConfig(**OTHER).save_pretrained(tmp_path)
    asked = []

    def download(repo: str, name: str, **options: Any) -> str:
        asked.append((repo, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr("hf_worm.files.hf_hub_download", download)
    assert WormConfig.from_pretrained("someone/a-ticket", revision="v1") == WormConfig(**OTHER)
    assert asked == [("someone/a-ticket", "worm_config.json", {"revision": "v1"})]
