"""Looking at data files: rows, one trajectory in the terminal, distributions, scores."""
