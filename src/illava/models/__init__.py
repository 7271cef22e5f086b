"""What differs between models: one entry per family, located modules, dimensions, layout of pictures."""
