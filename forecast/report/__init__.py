"""Turns scores and forecasts into one self-contained HTML page."""
