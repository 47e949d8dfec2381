import json

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.models.serialise import AVERAGE, SIDE_CAR, WEIGHTS, load_forecaster, save_forecaster
from tests.models.small import batch, fields, trained


@pytest.fixture
def folder(tmp_path):
    model = trained(fields())
    model.precision = "bfloat16"
    save_forecaster(tmp_path, model, {name: p + 1 for name, p in model.named_parameters()})
    return tmp_path


def test_round_trip_keeps_every_bit(folder):
    model, loaded = trained(fields()), load_forecaster(folder, averaged=False)
    assert loaded.precision == "bfloat16"
    model.precision = loaded.precision
    data = batch(fields())
    assert torch.equal(*(m.training_loss(data, 2, data.keys)["loss"] for m in (loaded, model)))
    assert loaded.section == model.section
    assert loaded.loss == model.loss
    assert loaded.fields.to_json() == model.fields.to_json()


def test_averaged_weights_are_the_default(folder):
    model, averaged = trained(fields()), load_forecaster(folder)
    for name, parameter in averaged.named_parameters():
        torch.testing.assert_close(parameter, dict(model.named_parameters())[name] + 1)


def test_without_averages_the_weights_serve(tmp_path):
    model = trained(fields())
    save_forecaster(tmp_path, model)
    assert not (tmp_path / AVERAGE).exists()
    for ours, theirs in zip(load_forecaster(tmp_path).parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_plain_files_and_nothing_half_written(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([AVERAGE, SIDE_CAR, WEIGHTS])


def tear(path):
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path):
    path.write_text(json.dumps({"format": "something else"}))


def other_model(path):
    side_car = json.loads(path.read_text())
    side_car["model"]["width"] = 32
    path.write_text(json.dumps(side_car))


def older_code(path):
    side_car = json.loads(path.read_text())
    side_car["model"]["depth_of_old"] = 3
    path.write_text(json.dumps(side_car))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (SIDE_CAR, lambda path: path.unlink(), "no checkpoint"),
        (SIDE_CAR, tear, "torn"),
        (SIDE_CAR, foreign, "`format`"),
        (SIDE_CAR, other_model, "where the model has"),
        (SIDE_CAR, older_code, "depth_of_old"),
        (AVERAGE, tear, "cannot read weights"),
        (AVERAGE, lambda path: path.unlink(), "cannot read weights"),
    ],
)
def test_damage_is_told(folder, name, damage, words):
    damage(folder / name)
    with pytest.raises(ForecastError, match=words):
        load_forecaster(folder)
