"""Input and output: files, texts, images, videos, prompts, plots and warnings. Independent of any model."""
