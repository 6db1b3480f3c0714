"""Federation: sites train behind their own door; a server only ever sees their arrays."""
