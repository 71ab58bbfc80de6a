"""Stage verify: which rows a reader agrees with."""
