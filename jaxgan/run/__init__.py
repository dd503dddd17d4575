"""A run of any model in a folder. Start with `training`."""
