"""Configs: every shipped one loads, settings apply, and each mistake is named with its remedy."""

import numpy as np
import pytest
import yaml

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.times import format_duration, format_time, parse_duration, parse_time

RAW = {
    "name": "tiny",
    "source": {"kind": "planet", "years": 2},
    "data": {
        "train": ["2001-01-01", "2001-12-31T18"],
        "validation": ["2002-01-01", "2002-12-31T18"],
        "prognostic": ["z_500"],
    },
    "training": {"stages": [{"updates": 10, "lr": 1e-3}]},
    "forecast": {"starts": {"first": "2002-06-01T00", "last": "2002-06-03T00", "every": "12h"}},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RAW))
    return path


def test_loads_with_settings_of_every_depth(file):
    config = configs.load(file, ("training.batch_size=7", "training.stages.0.lr=0.5", "loss.alpha=0.9", "root=x y"))
    assert (config.training.batch_size, config.training.stages[0].lr, config.loss.alpha) == (7, 0.5, 0.9)
    assert str(config.path("a.zarr")) == "x y/a.zarr" and str(config.path("/a.zarr")) == "/a.zarr"
    expected = np.arange("2002-06-01T00", "2002-06-03T01", 43200, "M8[s]")
    assert config.forecast.starts.times().tolist() == expected.tolist()


@pytest.mark.parametrize("path", sorted(configs.shipped().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_loads(path):
    assert configs.load(path).name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.batchsize=3", "unknown key `training.batchsize`, did you mean `batch_size`"),
        ("source.yeers=3", "unknown key `source.yeers`, did you mean `years`"),
        ("training.stages.0.learning_rate=3", "unknown key `training.stages.0.learning_rate`"),
        ("training.stages.4.lr=3", "must be an index below 1"),
        ("modl.width=3", "unknown key `modl`, did you mean `model`"),
        ("model.heads=3", "model.heads=3 must divide model.width"),
        ("data.step=6", "`data.step`: `6` is not a duration; write it like 6h"),
        ("data.train=[2001, tomorrow]", "`tomorrow` is not a time"),
        ("source.kind=grb", "grib"),
        ("training.members=1", "training.members"),
        ("name.deep=1", "`name` is a single value"),
        ("noequals", "expected a.b=value"),
        ("forecast.starts={}", "give either `at`"),
    ],
)
def test_each_mistake_is_named(file, setting, message):
    with pytest.raises(ForecastError) as error:
        configs.load(file, (setting,))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_file_broken_yaml_and_missing_section(tmp_path, file):
    with pytest.raises(ForecastError, match="no config .*one that ships"):
        configs.load(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ForecastError, match="not valid YAML"):
        configs.load(tmp_path / "broken.yaml")
    with pytest.raises(ForecastError, match="`data` is missing"):
        configs.parse({k: v for k, v in RAW.items() if k != "data"})


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("name: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(ForecastError, match="not valid YAML"):
        configs.load(tmp_path / "evil.yaml")


def test_times_and_durations_round_trip():
    for text in ("6h", "15d", "90m", "45s"):
        assert format_duration(parse_duration(text)) == text
    assert format_duration(np.timedelta64(24, "h")) == "1d"
    assert format_time(parse_time("2001-03-01")) == "2001-03-01T00"
    assert format_time(parse_time("2001-03-01T06:30:00Z")) == "2001-03-01T06:30"
    for bad in ("", "soon", None, [1]):
        with pytest.raises(ValueError, match="write it like"):
            parse_time(bad)
