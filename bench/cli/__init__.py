"""The commands of the bench room."""
