"""The job kind Federate: trains one model over several sites' datasets, each under its own budget."""
