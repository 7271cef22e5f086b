"""Merging inside the image encoder."""
