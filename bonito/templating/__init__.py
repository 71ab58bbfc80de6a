"""Prompt templates: read, converted into meta-templates, rendered in a sandbox."""
