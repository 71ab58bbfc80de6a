"""Stage generate: passages into instructions and responses."""
