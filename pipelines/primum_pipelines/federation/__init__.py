"""Federation: sites that train behind their own door, and a server that only ever sees their arrays."""
