"""The job kind Synthesize: releases a synthetic dataset."""
