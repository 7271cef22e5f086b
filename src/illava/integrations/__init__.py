"""Models of evaluation harnesses. Only the harnesses import these modules; nothing else of illava does."""
