"""The hooks attached to a model, in the order of the data: from the image encoder to the KV cache."""
