"""Data: files and frames into samples with roles, lint, splits, batches, built-in data. No models here."""
