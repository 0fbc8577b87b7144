"""The commands of the runtime room."""
