"""``python -m primum`` is the ``primum`` command."""

from primum.entrypoints.cli import main

main()
