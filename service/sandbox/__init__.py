"""A simulated Webex for local use and for tests: REST, signed webhooks, people who register, and Webex's awkward habits."""
