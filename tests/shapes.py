"""The checker of shapes and types that runs under pytest only: beartype, with whole numbers accepted as floats (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
