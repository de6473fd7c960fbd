"""The processes: node daemon, cluster controller, and the `millrace` command."""
