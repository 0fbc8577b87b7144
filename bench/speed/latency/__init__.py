"""How long a batch takes: models in whatever runs them, beside each other and beside what the machine can do."""
