"""Pair rules: who attracts whom, who repels whom. `same_sample` lives in `types`, since every room needs it."""
