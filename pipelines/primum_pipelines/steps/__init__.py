"""Pipeline steps that every job kind shares: validate, evaluate, audit. Heavy; run in a worker."""
