"""Reading and writing: files, text, pictures, videos, prompts, plots and warnings. Knows no model."""
