"""``python -m service`` is ``webex-events``."""

from service.cli import main

if __name__ == "__main__":
    main()
