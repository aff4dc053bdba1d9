"""A config is read whole, and every mistake in it is one line that names the key, what came and what is allowed."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from kd_ray import yaml_io
from kd_ray.config import Config, check_name
from kd_ray.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.of(values)
    return str(caught.value)


def sections(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every section's keys, those that stand beside `auto` among them."""
    found = [path]
    for name, field in model.model_fields.items():
        beside_auto = get_args(field.annotation) if get_origin(field.annotation) is not list else ()
        for kind in (field.annotation, *beside_auto):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind, (*path, name))
    return found


def knobs(value: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Dotted key and default of everything that is no section."""
    if not isinstance(value, BaseModel):
        return {".".join(path): value}
    return {k: v for name in type(value).model_fields for k, v in knobs(getattr(value, name), (*path, name)).items()}


def nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


DEFAULTS = knobs(Config())
NUMBERS = [key for key, value in DEFAULTS.items() if isinstance(value, int | float) and not isinstance(value, bool)]


def test_the_walk_over_the_sections_sees_them_all() -> None:
    assert {("teachers", "model"), ("teachers", "resources"), ("data", "split"), ("data", "options")} < {
        *sections(Config)
    }


@pytest.mark.parametrize("path", sections(Config), ids=".".join)
def test_an_unknown_key_is_refused_at_every_level(path: tuple[str, ...]) -> None:
    key = ".".join((*path, "zzz"))
    assert f"config: {key}: unknown key; allowed here: " in said(nested((*path, "zzz"), 1))


@pytest.mark.parametrize("key", ["stora[ge", "int", "Resources", "", "a.b"])
def test_a_key_of_any_letters_is_an_unknown_key(key: str) -> None:
    assert f"config: {key}: unknown key; " in said({key: 1})
    assert f"config: teachers.{key}: unknown key; " in said({"teachers": {key: 1}})


def test_a_misspelt_key_is_answered_with_the_near_one() -> None:
    assert "teachers.epoch: unknown key; did you mean 'epochs'?" in said({"teachers": {"epoch": 3}})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("student.temperature", 0, "a number above 0"),
        ("student.temperature", -1.5, "a number above 0"),
        ("student.temperature", float("nan"), "a number above 0"),
        ("student.temperature", float("inf"), "a number above 0"),
        ("student.alpha", -0.1, "a number in [0, 1]"),
        ("student.alpha", 1.1, "a number in [0, 1]"),
        ("teachers.count", 0, "a whole number >= 1"),
        ("teachers.count", 2.5, "a whole number >= 1"),
        ("teachers.count", True, "a whole number >= 1"),
        ("teachers.count", "12", "a whole number >= 1"),
        ("teachers.epochs", -3, "a whole number >= 1"),
        ("teachers.pack_size", 0, "auto, or a whole number >= 1"),
        ("teachers.resources", 3, "auto, or {cpus, gpus, actors}"),
        ("teachers.resources.cpus", -1, "a number >= 0"),
        ("teachers.resources.gpus", float("nan"), "a number >= 0"),
        ("teachers.resources.gpus", True, "a number >= 0"),
        ("teachers.resources.actors", 0, "auto, or a whole number >= 1"),
        ("soft_targets.rows_per_file", 0, "auto, or a whole number >= 1"),
        ("student.workers", "many", "auto, a whole number >= 1, or [least, most]"),
        ("student.workers", "[3, 2]", "auto, a whole number >= 1, or [least, most]"),
        ("teachers.checkpoint_seconds", "-1", "a number >= 0"),
        ("student.schedule", "linear", "constant or cosine"),
        ("student.averaging", "votes", "logits or probabilities"),
        ("soft_targets.transfer.kind", "noize", "none, noise, mixup, swap, munge or mix"),
        ("soft_targets.transfer.mix", {"munge": 0}, "a mapping of kinds to numbers >= 0, one of them above 0"),
        ("soft_targets.transfer.mix", {}, "a mapping of kinds to numbers >= 0, one of them above 0"),
        ("soft_targets.member_log_probs", 1, "true or false"),
        ("data.split.test", 0, "a fraction in (0, 1), or a whole number of rows"),
        ("data.split.test", 1.5, "a fraction in (0, 1), or a whole number of rows"),
        ("data.split.valid", -0.1, "a fraction in [0, 1), or a whole number of rows"),
        ("data.split.valid", 2.5, "a fraction in [0, 1), or a whole number of rows"),
        ("data.task", "ranking", "auto, classification or regression"),
        ("data.csv.delimiter", "||", "one character"),
        ("teachers.model.dropout", [0.5], "[], or one number in [0, 1) for each hidden layer"),
        ("teachers.model.hidden", 0, "a list of whole numbers >= 1"),
        ("student.model.dropout", [0.1, 0.1, 0.1], "[], or one number in [0, 1) for each hidden layer"),
        ("name", 3, "a folder name"),
        ("teachers", 3, "a mapping"),
        ("storage", "", "a folder, or a URI such as s3://bucket/runs"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(key: str, value: Any, allowed: str) -> None:
    assert said(nested(tuple(key.split(".")), value)) == f"config: {key}: must be {allowed}; got {value!r}"


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [True, "7", None, [1], float("nan"), float("inf"), float("-inf")], ids=repr)
def test_every_number_refuses_what_is_none(key: str, value: Any) -> None:
    line = said(nested(tuple(key.split(".")), value))
    assert line.startswith(f"config: {key}: must be ")
    assert line.endswith(f"; got {value!r}")


def test_a_dropout_of_1_is_refused_and_named() -> None:
    line = said({"teachers": {"model": {"hidden": [4], "dropout": [1.0]}}})
    assert line == "config: teachers.model.dropout: must be [], or one number in [0, 1) for each hidden layer; got 1.0"


def test_a_long_value_is_cut_short() -> None:
    assert len(said({"seed": "7" * 10_000})) < 150


def test_all_mistakes_are_said_at_once() -> None:
    lines = said({"teachers": {"count": 0, "epochs": 0}, "student": {"alpha": 2}, "colour": 1}).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == [
        "colour",
        "student.alpha",
        "teachers.count",
        "teachers.epochs",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a"),
        ("name", "A" * 63),
        ("name", "7-b_c.d"),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("student.alpha", 0),
        ("student.alpha", 1),
        ("teachers.count", 1),
        ("data.split.test", 1),
        ("data.split.valid", 0),
        ("data.options.flip_y", 1),
        ("student.model.hidden", []),
        ("soft_targets.transfer.swap", 1),
        ("teachers.resources", {"cpus": 0, "gpus": 0.5, "actors": 3}),
    ],
)
def test_a_value_on_the_edge_of_what_is_allowed_is_taken(key: str, value: Any) -> None:
    config: Any = Config.of(nested(tuple(key.split(".")), value))
    for part in key.split("."):
        config = getattr(config, part)
    assert (config.model_dump() if isinstance(config, BaseModel) else config) == value


def test_nothing_is_the_default_and_nobody_can_change_it(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    config = Config.from_yaml(tmp_path / "empty.yaml")
    assert config == Config.of({}) == Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.teachers.count = 3


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", "a..b", "../x", "", "a\n", "a\0b", "a\x1b[2J", "-rf", ".hidden", "a.", "a" * 64, "a b", "ä", "a\\b"],
)
def test_a_name_that_could_leave_the_storage_is_refused(name: str) -> None:
    assert "name: must be 1 to 63 letters" in said({"name": name})
    with pytest.raises(ConfigError):
        check_name(name)


def test_a_mix_names_kinds_that_the_transfer_set_has() -> None:
    line = "must name kinds that data and soft_targets.transfer bring, mixup; got noise"
    assert f"student.mix: {line}" in said({"student": {"mix": {"noise": 0.5, "mixup": 1}}})
    space = {"student.mix": [{}, {"mixup": 0.5}, {"noise": 0.5}]}
    assert f"tune.space: student.mix: {line}" in said({"tune": {"space": space}})
    nothing = {"student": {"mix": {"unlabelled": 1}}, "soft_targets": {"transfer": {"kind": "none"}}}
    assert "bring, here none; got unlabelled" in said(nothing)
    wrong = {"student": {"mix": {"mixup": 2}}}
    assert said(wrong) == "config: student.mix: must be a mapping of kinds of rows to numbers in [0, 1]; got 2"
    table = {"source": "a.csv", "unlabelled": "b.csv", "columns": {"target": "y"}}
    assert Config.of({**nothing, "data": table}).student.mix == {"unlabelled": 1}


def test_averaging_probabilities_needs_the_members_word() -> None:
    values = {"student": {"averaging": "probabilities"}, "soft_targets": {"member_log_probs": False}}
    assert "student.averaging: probabilities needs soft_targets.member_log_probs: true" in said(values)


@pytest.mark.parametrize("hidden", [[], [5], [5, 4, 3, 2]])
def test_default_dropout_fits_the_hidden_layers(hidden: list[int]) -> None:
    dropout = Config.of({"teachers": {"model": {"hidden": hidden}}}).teachers.model.dropout
    assert dropout == [0.3, 0.3, 0.0, 0.0][: len(hidden)]


@pytest.mark.parametrize("values", [[], [1], "text", 3])
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    assert "must be a mapping of keys to values" in said(values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "not valid YAML"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' is given twice"),
        ("a: &x [1, 2]\nb: [*x, *x]", "line 2: YAML aliases (*x) are not allowed"),
        ("1: 2", "line 1: keys must be text, got 1"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: 2026-13-45", "not valid YAML"),
        ("a: 1\n--- \nb: 2", "line 2: not valid YAML"),
        ("a: {b: 1\nc: 2", "line 2: not valid YAML"),
        ("a: 1\0", "not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 2: YAML aliases (*a) are not allowed"),
        ("[" * 5000, "nested too deeply"),
        ("#" * (1 << 20) + "\n", "must be at most 1,048,576 bytes"),
    ],
)
def test_text_that_is_no_safe_yaml_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=None) as caught:
        yaml_io.parse(text)
    assert says in str(caught.value)


def test_a_file_of_just_the_allowed_size_is_read() -> None:
    assert yaml_io.parse("#" * (yaml_io.MAX_BYTES - 1) + "\n") is None


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("1E5", 1e5), ("-2e+1", -20.0), (".5e-3", 5e-4)])
def test_a_number_with_an_exponent_and_no_dot_is_a_number(text: str, number: float) -> None:
    assert yaml_io.parse(f"a: {text}") == {"a": number}


def test_overrides_go_before_the_file_and_read_as_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nteachers: {count: 3}\n")
    config = Config.from_yaml(file, ["teachers.count=5", "student.learning_rate=1e-3", "student.model.hidden=[4]"])
    assert (config.name, config.teachers.count) == ("x", 5)
    assert (config.student.learning_rate, config.student.model.hidden) == (1e-3, [4])


def test_an_override_builds_its_way_down_and_leaves_its_argument_alone() -> None:
    values = {"teachers": {"count": 3}}
    assert yaml_io.override(values, ["teachers.model.hidden=[4]", "student={alpha: 0.5}", "student.epochs=2"]) == {
        "teachers": {"count": 3, "model": {"hidden": [4]}},
        "student": {"alpha": 0.5, "epochs": 2},
    }
    assert values == {"teachers": {"count": 3}}


def test_a_mistake_in_an_override_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--set teachers\.count: line 1: not valid YAML"):
        yaml_io.override({}, ["teachers.count=["])
    (tmp_path / "c.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match="unknown key; did you mean 'teachers'"):
        Config.from_yaml(tmp_path / "c.yaml", ["teacher.count=3"])


@pytest.mark.parametrize("assignment", ["teachers", "=3", ""])
def test_an_override_that_is_no_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set: must be KEY=VALUE"):
        yaml_io.override({}, [assignment])


def test_the_file_is_named_where_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        Config.from_yaml(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: must be UTF-8"):
        Config.from_yaml(latin)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        Config.from_yaml(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml: line 1: not valid YAML"):
        Config.from_yaml(broken)
    broken.write_text("teachers: {count: 0}\nseed: -1\n")
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(broken)
    assert all(line.startswith(f"{broken}: ") for line in str(caught.value).splitlines())


CHANGED = {
    "name": "010",
    "seed": 7,
    "storage": "s3://a: b/# ü",
    "data": {
        "source": "a folder/*.parquet",
        "arguments": {"a": [1]},
        "unlabelled": "more.csv",
        "task": "classification",
        "columns": {
            "target": "y",
            "include": ["a"],
            "exclude": ["b"],
            "kinds": {"a": "date"},
            "ids": ["c"],
            "weight": "w",
            "split": "s",
            "group": "g",
        },
        "csv": {"encoding": "latin-1", "delimiter": ";", "null_values": ["-"]},
        "preprocess": {"missing": "mean", "scale": "none", "max_levels": 7, "min_rows": 3},
        "options": {
            "n_samples": 60,
            "n_features": 9,
            "n_informative": 4,
            "n_redundant": 1,
            "n_repeated": 1,
            "n_classes": 3,
            "n_clusters_per_class": 1,
            "flip_y": 1e-7,
            "class_sep": 2e20,
            "random_state": 1,
        },
        "split": {"test": 50.0, "valid": 0.125, "stratify": True, "seed": 1},
    },
    "teachers": {
        "groups": [{"kind": "sklearn", "estimator": "a.B", "count": 2}],
        "folds": 5,
        "bootstrap": True,
        "features": 0.5,
        "weights": "nll",
        "clip": 1e-3,
        "count": 3,
        "model": {"kind": "mlp", "hidden": [], "dropout": [], "one_hot": 3, "embedding": 4},
        "epochs": 1,
        "batch_size": 1,
        "learning_rate": 1e-9,
        "weight_decay": 0.5,
        "resources": {"cpus": 0.5, "gpus": 0.25, "actors": 2},
        "pack_size": 4,
        "checkpoint_seconds": 0,
        "allow_failures": 2,
        "deadline_seconds": 9.5,
    },
    "soft_targets": {
        "transfer": {"kind": "mix", "mix": {"swap": 1.0}, "factor": 3, "noise": 1.5, "swap": 1.0},
        "member_log_probs": False,
        "rows_per_file": 10,
        "deadline_seconds": 7.0,
    },
    "student": {
        "checkpoint_seconds": 5,
        "model": {"kind": "mlp", "hidden": [5], "dropout": [0.5], "one_hot": 0, "embedding": 1},
        "mix": {"swap": 0.5},
        "loss": "huber",
        "class_weights": "balanced",
        "temperature": 1e6,
        "alpha": 0.0,
        "averaging": "logits",
        "epochs": 1,
        "batch_size": 9,
        "learning_rate": 1e-300,
        "weight_decay": 0.0,
        "schedule": "constant",
        "replicas": 1,
        "workers": 2,
    },
    "tune": {
        "space": {"student.alpha": {"low": 0.1, "high": 0.5}},
        "search": "random",
        "trials": 3,
        "pack_size": 2,
        "objective": "accuracy",
        "max_bytes": 9000,
        "max_milliseconds": 0.5,
        "rungs": 1,
        "eta": 2,
    },
    "export": {"int8": False, "pruning": [], "fine_tuning": 1.0, "tolerance": 0.0, "latency": False},
    "track": {"mlflow": "https://mlflow.example:5000", "experiment": "churn"},
}


@pytest.mark.parametrize("write", [Config.to_yaml, yaml_io.annotated])
@pytest.mark.parametrize("values", [{}, CHANGED], ids=["default", "changed"])
def test_a_config_survives_its_own_yaml(write: Callable[[Config], str], values: dict[str, Any]) -> None:
    config = Config.of(values)
    assert Config.of(yaml_io.parse(write(config))) == config


def test_the_changed_config_changes_every_knob_that_has_a_second_value() -> None:
    same = {key for key, value in knobs(Config.of(CHANGED)).items() if DEFAULTS.get(key) == value}
    assert same == {"teachers.model.kind", "student.model.kind", "student.averaging"}


def test_the_printed_config_is_the_default_with_a_comment_for_each_knob() -> None:
    lines = yaml_io.annotated(Config()).splitlines()
    assert Config.of(yaml.safe_load("\n".join(lines))) == Config()
    for above, line in itertools.pairwise(lines):
        assert line.lstrip().startswith("#") or above.lstrip().startswith("# ")


def test_the_examples_are_what_they_say() -> None:
    assert Config.from_yaml(EXAMPLES / "default.yaml") == Config()
    article = Config.from_yaml(EXAMPLES / "article.yaml")
    assert article.soft_targets.transfer.kind == "none"
    assert (article.student.temperature, article.student.alpha, article.student.schedule) == (3.0, 0.7, "constant")
    assert (article.student.epochs, article.student.weight_decay, article.data.split.valid) == (50, 1e-4, 0.0)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_config(path: Path) -> None:
    assert Config.from_yaml(path).name in (path.stem, "default")


KEYS = st.sampled_from(
    ["name", "seed", "data", "teachers", "student", "split", "test", "model", "hidden", "count", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_value_is_a_config_or_a_config_error(values: Any) -> None:
    with contextlib.suppress(ConfigError):
        Config.of(values)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DEFAULTS)), VALUES)
def test_any_value_of_any_knob_is_taken_or_refused_by_the_knobs_name(key: str, value: Any) -> None:
    refused = ""
    try:
        Config.of(nested(tuple(key.split(".")), value))
    except ConfigError as error:
        refused = str(error)
    assert not refused or refused.startswith(f"config: {key}")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="ab:-[]{}&*!#'\"\n 1e.|>%@,?", max_size=40))
def test_any_text_is_yaml_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        yaml_io.parse(text)
