"""Merging inside a pretrained DINOv2-small on real photographs: pooled features, small things."""
