"""Language models: loading, prompts, engines, training."""
