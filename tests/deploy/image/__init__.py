"""The image, built from the unmodified Dockerfile and really run, without Docker: ``make image-check``.

No registry is needed. Debian's packages make a base with the same Debian and the same Python as the official image, and it
bears that one's name (:mod:`.images`). What is measured is therefore what stands above the base.
"""
