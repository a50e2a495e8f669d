"""What becomes of waiting events when the process ends, is told to end, or forks: with real processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: A client that writes what it stores to its process' stdout, and a producer that waits for company before it sends.
HEAD = """
import os, signal, sys, time
from streamproc.producer import Producer, ProducerSettings

class Client:
    def put_records(self, StreamName, Records):
        for record in Records:
            os.write(1, b"%s %d\\n" % (record["Data"], os.getpid() == PARENT))
        return {"Records": [{"ShardId": "shardId-000000000000", "SequenceNumber": "1"}] * len(Records)}

PARENT = os.getpid()
producer = Producer("s", client=Client(), settings=ProducerSettings(linger_seconds=60))
"""


def run(code: str, *, status: int = 0) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    return ended.stdout.splitlines()


def test_what_waits_when_the_program_ends_is_sent() -> None:
    assert run("producer.put(b'one', 'u1'); producer.put(b'two', 'u2')") == ["one 1", "two 1"]


def test_sigterm_ends_a_program_that_does_not_handle_it_and_what_waits_is_sent_before() -> None:
    code = "producer.put(b'one', 'u1'); os.kill(PARENT, signal.SIGTERM); time.sleep(30)"
    assert run(code, status=143) == ["one 1"]


def test_a_program_s_own_handler_of_sigterm_is_left_alone() -> None:
    before = "signal.signal(signal.SIGTERM, mine)\nproducer.put(b'one', 'u1')\n"
    after = "producer.put(b'one', 'u1')\nsignal.signal(signal.SIGTERM, mine)\n"
    for order in (before, after):
        code = f"def mine(number, frame):\n    print('mine', flush=True)\n    sys.exit(5)\n{order}"
        assert run(code + "os.kill(PARENT, signal.SIGTERM)\n", status=5) == ["mine", "one 1"]


def test_a_forked_child_sends_its_own_events_and_leaves_the_parent_s_to_it() -> None:
    code = """
future = producer.put(b"parent", "u1")
pid = os.fork()
if not pid:
    mine = producer.put(b"child", "u1")
    producer.close()
    assert mine.result(0)
    assert not future.done()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
producer.put(b"parent again", "u2")
producer.close()
assert future.result(0)
"""
    assert run(code) == ["child 0", "parent 1", "parent again 1"]


def test_a_fork_in_the_middle_of_a_call_leaves_the_child_with_locks_of_its_own() -> None:
    code = """
import threading
inside, go = threading.Event(), threading.Event()
class Slow(Client):
    def put_records(self, **request):
        if os.getpid() == PARENT:
            inside.set(); go.wait()
        return super().put_records(**request)
slow = Producer("s", client=Slow())
slow.put(b"parent", "u1")
inside.wait()
with slow._lock:
    pid = os.fork()
    if not pid:
        slow.put(b"child", "u1").result(10)
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
go.set()
slow.close()
"""
    assert run(code) == ["child 0", "parent 1"]


def test_a_child_of_multiprocessing_sends_what_waits_at_its_end() -> None:
    code = """
import multiprocessing
producer.put(b"parent", "u1")
def work():
    producer.put(b"child", "u1")
process = multiprocessing.get_context("fork").Process(target=work)
process.start(); process.join()
assert process.exitcode == 0
"""
    assert run(code) == ["child 0", "parent 1"]


def test_a_client_of_boto3_is_made_anew_in_a_forked_child(tmp_path: Path, stack: Any) -> None:
    name = f"fork-{os.getpid()}"
    stack.client("kinesis").create_stream(StreamName=name, ShardCount=1)
    code = f"""
mine = Producer({name!r})
mine.put(b"parent", "u1")      # the client is being made now
pid = os.fork()
if not pid:
    mine.put(b"child", "u1").result(20)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
mine.put(b"parent", "u1").result(20)
"""
    environment = {**os.environ, **stack.environment()}
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_signals_are_for_the_main_thread_alone() -> None:
    code = """
import threading
thread = threading.Thread(target=producer.put, args=(b"one", "u1"))
thread.start(); thread.join()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    assert run(code) == ["one 1"]
