"""Measurements of speed and memory: protocols, contenders, statistics, reports."""
