"""Every Webex webhook, verified, never lost, turned into clean CloudEvents on Kafka, and acted upon.

``core`` decides and does nothing else; ``webex``, ``bus``, ``receiver``, ``controllers``, ``telemetry`` and ``sandbox``
each do one thing; ``cli`` reads the settings and plugs them together.
"""
