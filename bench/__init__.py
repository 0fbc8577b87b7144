"""Benchmarks: costs, throughput and retrieval quality, against the paper and the peers."""
