"""``streamproc load``: how fast recommendations follow events at a rate of your choice, and what that costs.

An *open loop*: every event has an *intended time*, fixed before the run by the rate and the shape. Who is held up sends
late and counts the delay, so a system that stalls cannot hide it by slowing its load down (coordinated omission).

    shape.py      the intended times
    generator.py  sends each event at its time, and keeps what became of it
    published.py  the recommendations that came out: Firehose's objects in S3, or the local stack's journal
    latency.py    which recommendation was the first to know an event, and percentiles
    prices.py, cost.py   dollars, from a price table with its date
    system.py     the whole system on this machine, for `--local` and the benchmarks
    run.py, report.py, commands.py   the command
"""
