"""NetCDF-4 files after the CF conventions, written field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

import forecast
from forecast.core.times import parse_duration
from forecast.core.variables import split
from forecast.outputs import cf
from forecast.outputs.products import Product
from forecast.outputs.selection import Selection

_CLOCK = {
    "units": "seconds since 1970-01-01 00:00:00",
    "calendar": "proleptic_gregorian",
    "units_metadata": "leap_seconds: unknown",
}
_METHODS = {"mean": "mean", "spread": "standard_deviation", "min": "minimum", "max": "maximum"}
_SAID = {"mean": "ensemble mean", "spread": "ensemble spread (standard deviation over M - 1)",
         "min": "ensemble minimum", "max": "ensemble maximum", "quantile": "ensemble quantile"}  # fmt: skip


class NetcdfFile:
    """A file that takes the fields of `selection`: members, or `products` of them.

    Pressure levels of a variable are stacked: z_500 and z_850 become z(..., pressure, ...).
    """

    def __init__(self, path: Path, selection: Selection, products: tuple[Product, ...]) -> None:
        self._selection, self._products = selection, products
        self._levels: dict[str, list[int]] = {}
        for name in selection.variables:
            short, level = split(name)
            if level is not None:
                self._levels[short] = sorted([*self._levels.get(short, []), level])
        self._data = netCDF4.Dataset(path, "w", format="NETCDF4")
        self._data.set_auto_mask(False)
        self._globals()
        self._coordinates()
        for name in selection.variables:
            for product in products or (None,):
                if product is None or product.of(name):
                    self._variable(name, product)

    def members(self, variable: str, start: int, lead: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Members `rows` (m,) of one field, (m, G); `start` and `lead` are positions in the selection."""
        name, _, level = self._place(variable, None)
        place = (slice(rows[0], rows[-1] + 1), lead, start, *level)
        self._data.variables[name][place] = values.reshape(len(rows), *self._shape)

    def product(self, variable: str, start: int, lead: int, product: Product, values: np.ndarray) -> None:
        """A product (G,) of one field."""
        name, first, level = self._place(variable, product)
        self._data.variables[name][(*first, lead, start, *level)] = values.reshape(self._shape)

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: no room on the disk.
        """
        try:
            self._data.close()
        except RuntimeError as error:  # HDF5 says no more than that it failed
            raise OSError(f"{error}: is the disk full?") from None

    def notes(self) -> list[str]:
        """What the user should know: nothing, the values are exact."""
        return []

    @property
    def _shape(self) -> tuple[int, ...]:
        grid = self._selection.grid
        return grid.shape if grid.is_regular else (grid.size,)

    @property
    def _horizontal(self) -> tuple[str, ...]:
        return ("latitude", "longitude") if self._selection.grid.is_regular else ("values",)

    def _globals(self) -> None:
        store = self._selection.forecasts
        system = str(store.settings.get("system", "unknown"))
        self._data.setncatts({
            "Conventions": "CF-1.11",
            "title": "Ensemble forecasts" if not self._products else "Products of ensemble forecasts",
            "institution": "unknown",
            "source": f"{system} ensemble of {len(store.members)} members",
            "history": f"written by forecast {forecast.__version__} from {store.path.name}",
            "references": "https://cfconventions.org",
            "comment": "init_time + lead_time = time; number counts members from 0",
        })  # fmt: skip

    def _coordinates(self) -> None:
        chosen, grid = self._selection, self._selection.grid
        starts = chosen.forecasts.starts[chosen.starts].astype("datetime64[s]").astype("int64")
        leads = chosen.forecasts.leads[chosen.leads].astype("timedelta64[s]").astype("int64")
        self._add("init_time", ("init_time",), starts, _CLOCK | {"standard_name": "forecast_reference_time"})
        numbers = chosen.forecasts.members[chosen.members].astype("int32")
        realization = {"standard_name": "realization", "units": "1"}
        if self._products:
            said = f"first of the {numbers.size} members that products are made of"
            self._add("number", (), numbers[0], realization | {"long_name": said})
        else:
            self._add("number", ("number",), numbers, realization)
        about: dict[str, Any] = {"standard_name": "forecast_period", "units": "seconds", "dtype": "timedelta64[s]"}
        period = chosen.forecasts.settings.get("accumulation")
        if period and any(cf.over_time(name) != "point" for name in chosen.variables):
            about["bounds"] = "lead_time_bounds"
            before = leads - int(parse_duration(period) / np.timedelta64(1, "s"))
            self._add("lead_time_bounds", ("lead_time", "bound"), np.stack([before, leads], axis=1), {})
        self._add("lead_time", ("lead_time",), leads, about)
        valid = _CLOCK | {"standard_name": "time", "long_name": "time of validity"}
        self._add("time", ("lead_time", "init_time"), leads[:, None] + starts, valid)
        points = self._horizontal
        rows, columns = (grid.rows, grid.columns) if grid.is_regular else (grid.latitudes, grid.longitudes)
        if grid.is_regular:
            columns = np.degrees(np.unwrap(np.radians(columns)))
            columns = columns - 360.0 * (columns[-1] > 360.0)
        self._add("latitude", points[:1], rows, {"standard_name": "latitude", "units": "degrees_north"})
        self._add("longitude", points[-1:], columns, {"standard_name": "longitude", "units": "degrees_east"})
        quantiles = [p.value / 100 for p in self._products if p.kind == "quantile"]
        if quantiles:
            about = {"long_name": "quantile of the ensemble", "units": "1"}
            self._add("quantile", ("quantile",), np.array(quantiles), about)

    def _add(self, name: str, dims: tuple[str, ...], values: np.ndarray, about: dict[str, Any]) -> None:
        for dim, size in zip(dims, values.shape, strict=True):
            if dim not in self._data.dimensions:
                self._data.createDimension(dim, size)
        variable = self._data.createVariable(name, values.dtype, dims)
        variable.setncatts(about)
        variable[...] = values

    def _variable(self, name: str, product: Product | None) -> None:
        """Create what holds a variable, or a product of it, unless another level of it has."""
        target, first, level = self._place(name, product)
        if target in self._data.variables:
            return
        about, method = self._described(name, product)
        extra = ("number",) if product is None else ()
        if first and product is not None:
            extra = (f"{target}_threshold",) if product.kind == "probability" else ("quantile",)
        auxiliary = ["time"] + ["number"] * bool(self._products)
        auxiliary += [] if self._selection.grid.is_regular else ["latitude", "longitude"]
        about["coordinates"] = " ".join(auxiliary)
        about["cell_methods"] = f"lead_time: {cf.over_time(name)}" + (f" number: {method}" if method else "")
        pressure = (self._pressure(split(name)[0]),) if level else ()
        dims = (*extra, "lead_time", "init_time", *pressure)  # CF wants what is no axis of time or space to the left
        variable = self._data.createVariable(
            target,
            "f4",
            (*dims, *self._horizontal),
            zlib=True,
            complevel=1,
            shuffle=True,
            chunksizes=(*(1 for _ in dims), *self._shape),
            fill_value=np.float32(np.nan),
        )
        variable.setncatts(about)

    def _described(self, name: str, product: Product | None) -> tuple[dict[str, Any], str]:
        """CF attributes of a variable or a product of it, and its method over members, if there is one."""
        about = cf.attributes(name) | self._selection.forecasts.settings.get("events", {}).get(name, {})
        if product is not None and product.kind == "probability":
            self._threshold(name, product, dict(about))
            side = "above" if product.above else "below"
            at = f" at {split(name)[1]} hPa" if split(name)[1] else ""
            return {"long_name": f"probability of {about['long_name']}{at} {side} the threshold", "units": "1"}, ""
        method = _METHODS.get(product.kind, "") if product else ""
        if product is not None:
            about["long_name"] += f", {_SAID[product.kind]}"
        if about["units"] == "K":
            about["units_metadata"] = f"temperature: {'difference' if method == 'standard_deviation' else 'on_scale'}"
        return about, method

    def _threshold(self, name: str, product: Product, about: dict[str, Any]) -> None:
        dim = f"{self._place(name, product)[0]}_threshold"
        about["long_name"] = f"threshold of {about['long_name']}"
        if about["units"] == "K":
            about["units_metadata"] = "temperature: on_scale"
        self._add(dim, (dim,), np.array(self._thresholds(product)), about)

    def _place(self, variable: str, product: Product | None) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The variable of the file that holds a field, and where in its first dimension and on its level axis."""
        short, level = split(variable)
        name = cf.file_name(variable) if level is None else short
        on_level = () if level is None else (self._levels[short].index(level),)
        if product is None:
            return name, (), on_level
        if product.kind == "quantile":
            levels = [p.value for p in self._products if p.kind == "quantile"]
            return f"{name}_quantile", (levels.index(product.value),), on_level
        if product.kind == "probability":  # thresholds differ from level to level
            side = "above" if product.above else "below"
            return f"{cf.file_name(variable)}_{side}", (self._thresholds(product).index(product.value),), ()
        return f"{name}_{product.kind}", (), on_level

    def _thresholds(self, product: Product) -> list[float]:
        """All thresholds on the side of this one."""
        return [p.value for p in self._products if (p.variable, p.above) == (product.variable, product.above)]

    def _pressure(self, short: str) -> str:
        """The level axis of a variable: variables with the same levels share one."""
        levels = self._levels[short]
        sets = [list(x) for x in dict.fromkeys(map(tuple, self._levels.values()))]
        name = "pressure" if sets[0] == levels else f"pressure_{sets.index(levels) + 1}"
        if name not in self._data.variables:
            about = {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"}
            self._add(name, (name,), np.array(levels, float), about)
        return name
