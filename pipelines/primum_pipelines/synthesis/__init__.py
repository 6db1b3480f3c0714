"""Synthesis: generators that learn from a charged release of the data, and the release itself."""
