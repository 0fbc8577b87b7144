"""How many requests qo-serve answers, and how long they take."""
