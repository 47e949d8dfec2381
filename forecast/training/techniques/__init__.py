"""Training techniques: one small file each, switched on by `training.techniques` of a config (docs/techniques.md)."""
