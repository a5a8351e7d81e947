"""Decides what data is: content digests, immutable snapshots, and what came from what."""
