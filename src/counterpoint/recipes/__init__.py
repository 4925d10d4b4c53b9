"""Recipes: one plain function per paper, by data type. A recipe takes an encoder, the training samples and numbers."""
