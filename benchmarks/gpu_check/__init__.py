"""make gpu-check: the product's GPU paths on a random model of Mistral-7B's shape, in minutes."""
