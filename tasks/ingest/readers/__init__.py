"""From files to clean text: one small module a format, and what all of them share."""
