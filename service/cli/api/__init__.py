"""The verbs of Webex's API on the command line, made from the table of its operations."""
