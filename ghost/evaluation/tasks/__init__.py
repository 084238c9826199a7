"""Task definitions for lm-eval over local files, so that nothing is downloaded; lm-eval reads the YAML files."""
