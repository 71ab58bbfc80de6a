"""Stage finetune: the target model, adapted by Q-LoRA."""
