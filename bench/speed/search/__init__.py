"""The search benchmark: queryopt's searcher beside its peers, on the same codes, in the same run."""
