"""What merging does to zoo/R, the model of pretrained parts: what docs/zoo-r-figures.md tells."""
