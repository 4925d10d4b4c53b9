"""Objectives: embeddings and a pair rule -> a number. Pure functions of tensors; nothing changes while one is computed."""
