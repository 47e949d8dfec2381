"""The sample planet: a small three-level atmosphere model, so that everything runs with no download."""
