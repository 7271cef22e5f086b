"""What is attached to a model: hooks in the order of the data, from the image encoder to the cache."""
