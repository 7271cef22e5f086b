"""Where things are in a model: one entry a family, its modules, its dimensions, its layout of pictures."""
