"""Search: what is prunable, what it costs, and which ratios fit a budget."""
