"""The command-line program that commands add themselves to."""

from __future__ import annotations

import typer

NOT_BETTER, NOT_KEPT, INTERRUPTED = 3, 3, 130  # exit codes

app = typer.Typer(
    name="counterpoint",
    help="Train an embedding model on your own data, and see whether it is better than what you had.",
    epilog="Start with 'counterpoint demo', or 'counterpoint check DATA' on a csv, jsonl, parquet or npz file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
