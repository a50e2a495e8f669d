"""The fleet's settings, and the properties that they become."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import pytest
from hypothesis import given, strategies as st

from streamproc.errors import SettingsError
from streamproc.runners.kcl import known
from streamproc.runners.kcl.daemon import find_jars
from streamproc.runners.kcl.properties import (
    KclRunnerSettings,
    Worker,
    endpoint_of,
    properties_of,
    properties_text,
)

WORKER = Worker(application="shop", stream="carts", worker_id="kcl:w", region="eu-west-1", executable="/bin/sh c.sh")


def properties(**settings: Any) -> dict[str, str]:
    return properties_of(KclRunnerSettings(**settings), WORKER)


def test_no_default_of_kcl_that_loses_time_money_or_a_last_checkpoint_is_left_to_it() -> None:
    written = properties()
    assert written["shutdownGraceMillis"] == "20000"
    assert written["retrievalMode"] == "POLLING"
    assert written["callProcessRecordsEvenForEmptyRecordList"] == "true"
    assert written["metricsLevel"] == "NONE"
    assert written["isGracefulLeaseHandoffEnabled"] == "true"
    assert written["leaseAssignmentIntervalMillis"] == str(2 * int(written["failoverTimeMillis"]))
    assert "timeoutInSeconds" not in written


def test_every_property_that_is_written_is_one_that_kcl_knows_and_that_extra_may_not_set() -> None:
    for settings in (
        {},
        {"retrieval": "FANOUT"},
        {"retrieval": "FANOUT", "consumer_arn": "arn:aws:kinesis:eu-west-1:1:stream/carts/consumer/shop:1"},
        {"billing": "PROVISIONED"},
    ):
        worker = Worker(
            application="shop",
            stream="carts",
            worker_id="kcl:w",
            region="eu-west-1",
            executable="c",
            kinesis_endpoint="http://127.0.0.1:1",
            dynamodb_endpoint="http://127.0.0.1:2",
        )
        written = properties_of(KclRunnerSettings(**settings), worker)  # type: ignore[arg-type]
        assert written.keys() <= known.NAMES
        for name in written.keys() - {"awsCredentialsProvider"}:
            with pytest.raises(SettingsError, match=f"may not set {name}"):
                KclRunnerSettings(extra={name: "1"})


def test_fan_out_writes_no_polling_property_since_kcl_takes_one_as_a_change_of_mode() -> None:
    written = properties(retrieval="FANOUT")
    assert written["fanoutConfig.consumerName"] == "shop"
    assert not written.keys() & {"idleTimeBetweenReadsInMillis", "maxRecords"}


def test_capacities_are_written_for_provisioned_tables_alone() -> None:
    assert "workerMetricsReadCapacity" not in properties()
    written = properties(billing="PROVISIONED", read_capacity=7)
    assert (written["workerMetricsReadCapacity"], written["coordinatorStateReadCapacity"]) == ("7", "7")


def test_further_properties_are_passed_on() -> None:
    extra = {"maxLeasesForWorker": "10", "kinesisClient.anything": "x", "awsCredentialsProvider": "MyProvider"}
    assert properties(extra=extra).items() >= extra.items()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maxLeaseForWorker", "the nearest name is maxLeasesForWorker"),
        ("MAXLEASESFORWORKER", "the nearest name is maxLeasesForWorker"),
        ("fanoutConfig.consumerArm", "the nearest name is fanoutConfig.consumerArn"),
        ("qqqqqqqqqq", "no property of KCL, which would ignore it"),
        ("timeoutInSeconds", "halts the whole JVM"),
        ("shutdownGraceMillis", "set drain_seconds"),
    ],
)
def test_a_property_that_kcl_does_not_know_or_that_is_set_elsewhere_is_refused(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        KclRunnerSettings(extra={name: "1"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retrieval": "DEFAULT"}, "retrieval is 'DEFAULT': it must be POLLING or FANOUT"),
        ({"consumer_arn": "arn"}, "only FANOUT uses a consumer"),
        ({"initial_position": "NOW"}, "initial_position is 'NOW'"),
        ({"billing": "FREE"}, "billing is 'FREE'"),
        ({"metrics_level": "ALL"}, "it must be NONE, SUMMARY or DETAILED"),
        ({"failover_seconds": 0.5}, "a short pause would hand the shard"),
        ({"poll_seconds": 0.1}, "Kinesis throttles"),
        ({"records_max": 0}, "from 1 to 10000"),
        ({"drain_seconds": 0}, "before the last checkpoint"),
        ({"heap_mb": 8}, "heap_mb is 8"),
        ({"user_code_seconds_max": 0}, "user_code_seconds_max is 0"),
        ({"deaths_max": 0}, "deaths_max is 0"),
        ({"extra": {"maxRecords": 5}}, "properties are text"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_what_would_have_happened(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        KclRunnerSettings(**settings)


def test_endpoints_come_from_the_variables_of_the_aws_sdks() -> None:
    assert endpoint_of("kinesis", {}) is None
    assert endpoint_of("kinesis", {"AWS_ENDPOINT_URL": "a"}) == "a"
    assert endpoint_of("dynamodb", {"AWS_ENDPOINT_URL": "a", "AWS_ENDPOINT_URL_DYNAMODB": "b"}) == "b"
    assert endpoint_of("kinesis", {"AWS_ENDPOINT_URL": "a", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}) is None


def loaded(text: str) -> dict[str, str]:
    """As ``java.util.Properties.load`` reads it."""
    found = {}
    for line in text.splitlines():
        units = re.findall(r"\\u[0-9a-f]{4}|\\.|.", line)
        at = units.index("=")
        name, value = units[:at], units[at + 1 :]
        found[_decoded(name)] = _decoded(value)
    return found


def _decoded(units: list[str]) -> str:
    data = b""
    for unit in units:
        code = int(unit[2:], 16) if unit.startswith("\\u") else ord(unit[-1])
        data += code.to_bytes(2, "big")
    return data.decode("utf-16-be")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_any_value_survives_the_file(values: dict[str, str]) -> None:
    text = properties_text(values)
    assert loaded(text) == values
    text.encode("ascii")


def test_the_known_names_are_those_of_the_jar() -> None:
    (jar,) = [jar for jar in find_jars() if jar.name.startswith("amazon-kinesis-client-multilang-")]
    with zipfile.ZipFile(jar) as classes:

        def setters(name: str) -> set[str]:
            public = public_methods(classes.read(f"software/amazon/kinesis/multilang/config/{name}.class"))
            return {method[3].lower() + method[4:] for method in public if re.match("set[A-Z]", method)}

        assert setters("MultiLangDaemonConfiguration") == known.CONFIGURATION_NAMES
        assert setters("FanoutConfigBean") == known.FANOUT_NAMES


def public_methods(data: bytes) -> set[str]:
    """The names of a class file's public methods ("The Java Virtual Machine Specification", chapter 4)."""
    file = io.BytesIO(data[8:])

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "big")

    texts: dict[int, str] = {}
    sizes = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
    index, count = 1, number(2)
    while index < count:
        tag = number(1)
        if tag == 1:
            texts[index] = file.read(number(2)).decode(errors="replace")
        else:
            file.read(sizes[tag])
        index += 2 if tag in (5, 6) else 1  # a long or a double takes two places
    file.read(6)
    file.read(2 * number(2))
    found: set[str] = set()
    for kind in ("fields", "methods"):
        for _ in range(number(2)):
            flags, name, _ = number(2), number(2), number(2)
            for _ in range(number(2)):
                file.read(2)
                file.read(number(4))
            if kind == "methods" and flags & 1:
                found.add(texts[name])
    return found
