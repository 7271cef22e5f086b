"""KV caches that hold fewer tokens than the sequence has."""
