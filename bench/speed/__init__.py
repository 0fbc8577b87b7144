"""How fast it is: multiply-adds, latency, throughput, search, serving, training steps, GPU."""
