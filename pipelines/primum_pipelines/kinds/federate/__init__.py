"""The job kind Federate: one model from several sites, each under its own budget."""
