"""What a run record of any framework really guarantees, beside what it claims.

Pure: reads decoded JSON, never a file, and imports no training library.
"""
