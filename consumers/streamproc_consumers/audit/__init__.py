"""Is what landed in S3 sound, and what does it say? ``streamproc audit``; see docs/audit.md.

What landed is read once, in pieces, whatever its size. Each piece becomes columns; what must be compared across pieces
(ids, users) goes to partitions on disk by its hash, and is compared partition by partition.
"""
