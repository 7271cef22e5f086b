"""What a schedule costs and which one to choose, from a model's config alone."""
