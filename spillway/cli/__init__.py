"""The command line: `spillway up`, `demo`, `ask`, `explain`, `status`. A module is imported when its command runs."""
