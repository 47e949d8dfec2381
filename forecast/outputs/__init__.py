"""Forecast stores in the formats that people use: NetCDF and GRIB2, members or products of the ensemble."""
