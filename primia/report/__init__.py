"""The model card and the report, made from the result files."""
