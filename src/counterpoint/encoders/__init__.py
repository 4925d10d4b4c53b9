"""Encoders: modules that turn a batch into vectors, row by row."""
