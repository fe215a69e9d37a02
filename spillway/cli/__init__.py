"""The command line: `spillway up`, `demo`, `ask`, `explain`, `status`. Its modules are imported by the command that runs."""
