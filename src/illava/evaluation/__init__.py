"""Evidence: tasks, an evaluation anyone can run and resume, and what its figures mean."""
