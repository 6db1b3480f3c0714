"""Schema changes, applied in order by Alembic; each one is frozen once it is released."""
