from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.config import (
    Config,
    DataConfig,
    ModelConfig,
    SearchConfig,
    Section,
    TrainConfig,
    ValidateConfig,
)
from sls_deploy.config_file import merge_config, parse_section, read_config, to_toml
from sls_deploy.errors import SlsError


def written(folder: Path, text: str) -> Path:
    path = folder / "sls-deploy.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("comments", [True, False])
def test_defaults_read_back(tmp_path: Path, comments: bool) -> None:
    text = to_toml(Config(), comments=comments)
    assert read_config(written(tmp_path, text)) == Config()


def test_every_setting_is_written_with_its_description() -> None:
    lines = to_toml(Config(), comments=True).splitlines()
    for _, section in Config():
        for name, field in type(section).model_fields.items():
            places = [
                i for i, line in enumerate(lines) if line.startswith((f"{name} =", f"# {name} ="))
            ]
            assert any(lines[place - 1] == f"# {field.description}" for place in places)


def test_comments_can_be_left_out() -> None:
    comments = [line for line in to_toml(Config()).splitlines() if line.startswith("#")]
    assert comments == [
        "# weights =", "# scale =", "# output =", "# photos =", "# minutes =", "# latency_table =",
        "# static_shape =", "# calibration =", "# jobs =", "# workspace_mib =",
        "# optimization_level =", "# aux_streams =", "# timing_cache =", "# pictures =",
        "# min_parity_sparse_db =", "# precision =", "# overlap =",
    ]  # fmt: skip


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(
    lambda name: name not in (".", "..") and "/" not in name
)


@given(
    weights=names,
    budgets=st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=4),
    rate=st.floats(1e-300, 1e300),
    minutes=st.none() | st.floats(1e-9, 1e9),
    seed=st.integers(0, 2**63),
)
def test_any_settings_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    weights: str,
    budgets: list[float],
    rate: float,
    minutes: float | None,
    seed: int,
) -> None:
    config = Config(
        model=ModelConfig(weights=Path("/weights") / weights, scale=2),
        search=SearchConfig(budgets=tuple(budgets), learning_rate=rate, minutes=minutes, seed=seed),
    )
    folder = tmp_path_factory.getbasetemp()
    assert read_config(written(folder, to_toml(config))) == config


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    text = """
        model.weights = "small.pth"
        data.photos = "../photos"
        validate.pictures = "/bench/Set5"
    """
    config = read_config(written(tmp_path, text))
    assert config.model.weights == tmp_path / "small.pth"
    assert config.data.photos == tmp_path / "../photos"
    assert config.validate_.pictures == Path("/bench/Set5")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[search]\nstepz = 3", "there is no setting search.stepz"),
        ("[serach]", "there is no setting serach"),
        ("model = 3", "model is 3"),
        ("[search]\nsteps = 'many'", "search.steps is 'many': .*integer"),
        ("[search]\nsteps = 0", "search.steps is 0: .*greater than or equal to 1"),
        ("[search]\nminutes = inf", "search.minutes is inf: .*finite"),
        ("[search]\nbudgets = 0.5", "search.budgets is 0.5: .*tuple"),
        ("[search]\nbudgets = [0.5, 1.0]", r"search.budgets is .*: must lie between 0 and 1"),
        ("[search]\nbudgets = []", r"search.budgets is \[\]: must lie"),
        ("[search]\npattern = '1:4'", "search.pattern is '1:4': must be 2:4, n:4"),
        ("[search]\nmethod = 'magic'", "search.method is 'magic'"),
        ("[build]\narchitectures = []", r"build.architectures is \[\]"),
        (
            "[build]\nprecisions = ['int4']",
            "'int4': input should be 'fp32', 'fp16', 'bf16' or 'int8'",
        ),
        ("[build]\nopt_shape = [1, 3, 16]", "build.opt_shape"),
        ("[validate]\nmax_loss_db = -1", "validate.max_loss_db is -1"),
        ("[search\n", "cannot be read as TOML .*line 1"),
        ("a = 1\na = 2\n", "cannot be read as TOML .*line 2"),
    ],
)
def test_bad_settings_are_named_with_their_file(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(SlsError, match=rf"sls-deploy\.toml: .*{what}") as caught:
        read_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"no such file\. `sls-deploy init` writes one"):
        read_config(tmp_path / "sls-deploy.toml")


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sls-deploy.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SlsError, match="cannot be read as TOML"):
        read_config(path)


def test_budgets_are_sorted_and_named_once() -> None:
    assert SearchConfig(budgets=(0.25, 0.5, 0.25, 0.75)).budgets == (0.75, 0.5, 0.25)


def test_flags_stand_over_the_file_and_none_changes_nothing(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "search.steps = 7\nsearch.batch = 3"))
    flags: dict[str, dict[str, Any]] = {
        "search": {"steps": 9, "batch": None, "budgets": [0.25]},
        "validate": {"max_loss_db": 0.0},
    }
    merged = merge_config(config, flags)
    assert (merged.search.steps, merged.search.batch) == (9, 3)
    assert merged.search.budgets == (0.25,)
    assert merged.validate_.max_loss_db == 0
    assert merged.model_copy(
        update={"search": config.search, "validate_": config.validate_}
    ) == config  # fmt: skip


def test_bad_flag_is_named() -> None:
    with pytest.raises(SlsError, match=r"the command line: search\.steps is 0"):
        merge_config(Config(), {"search": {"steps": 0}})


def test_settings_that_are_none_keep_their_default() -> None:
    assert parse_section(TrainConfig, {"steps": None, "batch": 4}, "").steps == TrainConfig().steps


@pytest.mark.parametrize("section", [ModelConfig, DataConfig, SearchConfig, ValidateConfig])
def test_settings_cannot_be_changed(section: type[Section]) -> None:
    name = next(iter(section.model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(section(), name, "other")


def test_toml_is_what_toml_readers_take() -> None:
    values = tomllib.loads(to_toml(Config()))
    assert values["search"]["budgets"] == [0.5]
    assert values["build"]["opt_shape"] == [1, 3, 180, 320]
    assert set(values) == {
        "model", "data", "search", "export", "build", "validate", "adapt", "restore"
    }  # fmt: skip


def test_arguments_of_a_factory_survive_a_round_trip(tmp_path: Path) -> None:
    options = {"width": 8, "scales": [1, 2], "nested": {"a b": "c", "on": True}}
    config = Config(model=ModelConfig(name="net.py:make", options=options))
    (tmp_path / "c.toml").write_text(to_toml(config))
    read = read_config(tmp_path / "c.toml")
    assert read.model.options == options
    assert read.model.name == f"{tmp_path / 'net.py'}:make"
