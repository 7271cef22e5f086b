"""Where things are in a model: one entry a family, located modules, dimensions, layout of pictures."""
