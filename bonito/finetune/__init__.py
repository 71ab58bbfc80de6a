"""Stage finetune: the generator's training."""
