"""What qo-bench gpu measures on a GPU, section by section."""
