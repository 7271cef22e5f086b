"""Drawing for the tasks and for training: shapes, colours, handwriting, print and layout."""
