"""A Study: what it asks for, what it would do to data, and what happens next."""
