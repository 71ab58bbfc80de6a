"""Stage supervise: the rows that the target model is trained on."""
