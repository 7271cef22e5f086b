"""Drawing for the tasks and for the zoo's training: shapes, colours, handwriting, print and their places."""
