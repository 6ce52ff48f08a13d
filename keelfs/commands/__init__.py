"""One file per group of commands: arguments to validated configuration, and answers to text. No logic."""
