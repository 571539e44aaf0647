"""A plugin that cannot be imported."""

f = 1 / 0
