"""Where the pure functions meet a model: hooks on the image encoder, the projector and the LLM."""
