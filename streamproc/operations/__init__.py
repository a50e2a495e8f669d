"""The commands for whoever operates an application.

They read what a running application wrote and take nothing from its workers: no lease, no read of a shard. Those that
write go through the same fences and conditions as a worker.
"""
