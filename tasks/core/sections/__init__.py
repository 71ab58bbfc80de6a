"""The sections of ``params.yaml`` as typed models, a module for each section."""
