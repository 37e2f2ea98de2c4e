"""Decisions only: no I/O, no clock, no logging, no chance. What a decision needs comes in as an argument."""
