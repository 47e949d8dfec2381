"""Probabilities of events beside the states: as the head says, for each member, and in nobody's way."""

from pathlib import Path

import numpy as np
import pytest
import torch

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.sections import OutputSection
from forecast.core.store import Store
from forecast.core.variables import split
from forecast.inference.ensemble import generate
from forecast.inference.system import LearntSystem
from forecast.models.serialise import load_forecaster, save_forecaster
from forecast.verification.plan import common_variables
from forecast.verification.sources import StoredForecast
from pipelines import outputs
from tests import tiny
from tests.inference import learnt
from tests.inference.fakes import fingerprint

RAIN, WARM = {"variable": "tp", "above": [0.0005, 0.001]}, {"variable": "t_850", "edges": [270.0, 280.0]}
TERMS = {
    "rain": {"loss": "binary_cross_entropy", "of": "event", "event": RAIN},
    "heavy": {"loss": "dice", "of": "event", "event": RAIN},
    "warm": {"loss": "ranked_probability", "of": "event", "event": WARM},
    "unread": {"loss": "normalized_softmax", "of": "event", "event": {"variable": "t_850", "edges": [275.0]},
               "options": {"features": 16, "classes": 2}},
}  # fmt: skip
RAINS = ("probability_of_tp_above_0p0005", "probability_of_tp_above_0p001")
CLASSES = tuple(f"probability_of_t_850_class_{k}_of_270p0_280p0" for k in range(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    _, analysis = tiny.stores(folder)
    raw = tiny.raw(folder)
    raw["model"]["grid_width"] = 8
    learnt.checkpoint(folder / "checkpoint", configs.parse(raw | {"loss": {"terms": TERMS}}), analysis)
    return folder


@pytest.fixture(scope="module")
def system(folder) -> LearntSystem:
    return LearntSystem(folder / "checkpoint", Store.open(folder / "analysis.zarr"), device="cpu")


@pytest.fixture(scope="module")
def store(system, folder) -> Forecasts:
    return Forecasts.open(
        generate(system, learnt.STARTS, 4, learnt.LEAD, folder / "f.zarr", 3, settings=system.settings)
    )


def test_probabilities_stand_beside_the_states(store) -> None:
    assert store.variables == ("z_500", "t_850", "tp", *RAINS, *CLASSES)
    data = store.to_xarray()
    probabilities = data[[*RAINS, *CLASSES]].to_array()
    assert probabilities.isel(lead_time=0).isnull().all() and data["tp"].notnull().all()
    later = probabilities.isel(lead_time=slice(1, None))
    assert ((later >= 0) & (later <= 1)).all() and float(later.std()) > 0.01
    np.testing.assert_allclose(sum(data[name].isel(lead_time=slice(1, None)) for name in CLASSES), 1.0, rtol=1e-5)


def test_attributes_say_which_event(store) -> None:
    data = store.to_xarray()
    above, between = data[RAINS[1]].attrs, data[CLASSES[1]].attrs
    assert above["threshold"] == 0.001 and above["threshold_units"] == "m" and above["event_variable"] == "tp"
    assert above["long_name"] == "Probability of Total precipitation above 0.001 m" and above["units"] == "1"
    assert above["trained_with"] == "binary_cross_entropy, dice"
    assert (between["lower_threshold"], between["upper_threshold"]) == (270.0, 280.0)
    assert all(split(name)[1] is None for name in store.variables if "probability" in name)  # no levels
    assert "lower_threshold" not in data[CLASSES[0]].attrs and "upper_threshold" not in data[CLASSES[2]].attrs


def test_a_member_s_probability_is_what_the_head_says(system, folder) -> None:
    """By hand from the features of the first step; and states are those of the forecaster without heads."""
    start = learnt.STARTS[0]
    states = list(system.forecast(start, [0, 1, 2], 1))[1]
    model = load_forecaster(folder / "checkpoint").eval()
    seen = []
    system.model.network.register_forward_hook(lambda module, given, out: seen.append(out[1].hidden[0].clone()))
    for member in range(3):
        list(system.forecast(start, [member], 1))
    head = model.terms.heads["tp above 0p0005 0p001"]
    with torch.inference_mode():
        expected = torch.sigmoid(torch.cat(seen) @ head.read.weight.T + head.read.bias).movedim(-1, 1)
    np.testing.assert_allclose(states[:, 3:5], expected, rtol=1e-5)
    save_forecaster(folder / "plain", plain(model))
    bare = LearntSystem(folder / "plain", Store.open(folder / "analysis.zarr"), device="cpu")
    assert np.array_equal(list(bare.forecast(start, [0, 1, 2], 1))[1], states[:, :3])
    assert bare.variables == ("z_500", "t_850", "tp") and "events" not in bare.settings


def plain(model):
    """The same forecaster without further terms."""
    from forecast.models.forecaster import build

    bare = build(model.section, model.fields)
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if name in bare.state_dict()})
    return bare


def test_parts_make_the_same_store(system, store, folder) -> None:
    for part in ((1, 2), (0, 2)):
        path = generate(system, learnt.STARTS, 4, learnt.LEAD, folder / "g.zarr", 3, part, system.settings)
    assert fingerprint(path) == fingerprint(store.path)


def test_verification_takes_the_states_alone(store, folder) -> None:
    truth = Store.open(folder / "truth.zarr")
    assert common_variables([StoredForecast("f", store)], truth, None) == ("z_500", "t_850", "tp")


def test_grib_leaves_them_out_and_says_so(store, tmp_path, capsys) -> None:
    outputs.write(store.path, tmp_path / "all.grib2", OutputSection())
    assert "no code for what an event head gives" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ForecastError, match="has no GRIB paramId"):
        outputs.write(store.path, tmp_path / "named.grib2", OutputSection(variables=(RAINS[0],)))
