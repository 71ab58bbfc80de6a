"""Stage train_answering: the answering model's training."""
