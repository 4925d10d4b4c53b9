"""Private leaf: joins, reductions, the sweep over tiles, nearest neighbours. Imports nothing but `types`."""
