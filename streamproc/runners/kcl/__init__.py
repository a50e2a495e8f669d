"""The fleet: the same application under amazon-kclpy's MultiLangDaemon (KCL in a JVM, one child process a shard).

``runner`` starts and supervises the JVM, ``properties`` writes its configuration, ``child`` is what it starts for each
shard, ``protocol`` is how the two speak.
"""
