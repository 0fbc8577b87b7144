"""The libraries that are compared, each in a module of its own that imports it lazily, and queryopt's own searcher."""
