"""May this reader in, and does it understand what it is sent? Credentials, protocols, certificates, rights, sizes."""

import time

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from kafkapipes import AuthError, AuthorizationError, ConfigError, ConnectError, TopicError
from tests.faults.harness import CANARY, LITTLE_AHEAD, fast, fault, ledger, read, records
from tests.kafka.cluster import PASSWORD, SASL

pytestmark = pytest.mark.kafka
CONNECT_S = 2.0
LARGE = 50_000


def grant(broker, topic, operation=AclOperation.READ):
    """The user "reader" may read the topic; nothing is said of groups."""
    binding = AclBinding(ResourceType.TOPIC, topic, *_TO_READER, operation, AclPermissionType.ALLOW)
    broker.admin.create_acls([binding])[binding].result(30)


def revoke(broker, topic):
    wanted = AclBindingFilter(ResourceType.TOPIC, topic, *_TO_READER, AclOperation.READ, AclPermissionType.ALLOW)
    (found,) = broker.admin.delete_acls([wanted])[wanted].result(30)
    return found


_TO_READER = (ResourcePatternType.LITERAL, "User:reader", "*")


def is_let_in(servers, config):
    """Whether a reader with these properties is heard out, and only then told that there is no such topic for it."""
    return isinstance(read("chain-0", servers, "t:0:0:1", config=config).error, AuthorizationError | TopicError)


def without_secrets(outcome):
    assert PASSWORD not in outcome.text + str(outcome.report)
    return outcome


@pytest.mark.case(20)
def test_a_wrong_password_is_an_error_in_seconds(own_broker, how, verdict):
    config = {**SASL, "sasl.password": CANARY}

    outcome = read(how, own_broker.sasl_servers, "t:0:0:1", config=config, connect_timeout_s=CONNECT_S)

    verdict.failed(outcome, AuthError, "Authentication failed", "sasl.mechanism", within_s=CONNECT_S)
    verdict.has_fired("Invalid username or password" in outcome.text)


@pytest.mark.case(21)
@pytest.mark.parametrize("how", fast("dataset-0", "chain-2"))
@pytest.mark.parametrize(
    ("listener", "change", "error", "words"),
    [
        ("sasl", {"sasl.mechanism": "SCRAM-SHA-256"}, AuthError, "SCRAM-SHA-256"),
        ("sasl", {"security.protocol": "PLAINTEXT"}, ConnectError, "state UP"),  # hung up, or so found when sending
        ("sasl", {"security.protocol": "SSL"}, ConnectError, "SSL handshake failed"),
        ("plain", {}, AuthError, "SASL PLAIN mechanism handshake failed"),
    ],
    ids=["mechanism", "plaintext-to-sasl", "tls-to-sasl", "sasl-to-plaintext"],
)
def test_a_mechanism_or_protocol_that_the_broker_does_not_speak_is_an_error_that_says_so(
    own_broker, how, verdict, listener, change, error, words
):
    servers = own_broker.sasl_servers if listener == "sasl" else own_broker.bootstrap_servers
    outcome = read(how, servers, "t:0:0:1", config={**SASL, **change}, connect_timeout_s=CONNECT_S)

    verdict.failed(without_secrets(outcome), error, words, "security.protocol", within_s=CONNECT_S + 0.5)
    verdict.has_fired(is_let_in(servers, SASL if listener == "sasl" else {}))


def tls(ca):
    return {"security.protocol": "SSL", "ssl.ca.location": str(ca)}


@pytest.mark.case(21)
@pytest.mark.parametrize("how", fast("dataset-0", "chain-2"))
def test_plain_text_where_tls_is_spoken_is_an_error_that_says_so(tls_broker, how, verdict):
    servers = tls_broker.tls_servers["good"]

    outcome = read(how, servers, "t:0:0:1", connect_timeout_s=CONNECT_S)

    verdict.failed(outcome, ConnectError, servers, "Disconnected", "security.protocol", within_s=CONNECT_S + 0.5)
    verdict.has_fired(is_let_in(servers, tls(tls_broker.ca)))


@pytest.mark.case(22)
@pytest.mark.parametrize("certificate", ["good", "expired", "other-host"])
def test_a_certificate_that_does_not_hold_is_an_error_and_nothing_is_read(tls_broker, how, verdict, certificate):
    servers = tls_broker.tls_servers[certificate]
    ca = tls_broker.other_ca if certificate == "good" else tls_broker.ca

    outcome = read(how, servers, "t:0:0:1", config=tls(ca), connect_timeout_s=CONNECT_S)

    verdict.failed(outcome, AuthError, "certificate", within_s=CONNECT_S + 0.5)
    verdict.has_fired("verify failed" in outcome.text)


@pytest.mark.case(22)
def test_a_certificate_that_holds_lets_everything_be_read(tls_broker, how, verdict):
    topic = tls_broker.new_topic()
    tls_broker.produce(topic, records(topic, range(20)))

    outcome = read(how, tls_broker.tls_servers["good"], f"{topic}:0:0:20", config=tls(tls_broker.ca))

    verdict.complete(outcome, ledger(topic, range(20)), within_s=15)
    verdict.has_fired(len(outcome.delivered))


@pytest.mark.case(23)
def test_a_topic_that_is_denied_is_an_error_that_says_what_is_needed(own_broker, how, verdict):
    topic = own_broker.new_topic()

    outcome = read(how, own_broker.sasl_servers, f"{topic}:0:0:1", config=SASL)

    verdict.failed(without_secrets(outcome), AuthorizationError, topic, "READ and DESCRIBE", within_s=5)
    verdict.has_fired("TOPIC_AUTHORIZATION_FAILED" in outcome.text)


@pytest.mark.case(23)
def test_a_topic_that_may_be_described_but_not_read_is_the_same_with_the_place(own_broker, how, verdict):
    topic = own_broker.new_topic()
    own_broker.produce(topic, records(topic, range(50)))
    grant(own_broker, topic, AclOperation.DESCRIBE)

    outcome = read(how, own_broker.sasl_servers, f"{topic}:0:0:50", config=SASL)

    verdict.failed(without_secrets(outcome), AuthorizationError, f"at {topic}:0@", "READ and DESCRIBE", within_s=5)
    verdict.has_fired("TOPIC_AUTHORIZATION_FAILED" in outcome.text)


@pytest.mark.case(24)
def test_a_topic_that_is_allowed_is_read_without_any_right_to_the_group(own_broker, how, verdict):
    topic = own_broker.new_topic()
    own_broker.produce(topic, records(topic, range(50)))
    grant(own_broker, topic)

    outcome = read(how, own_broker.sasl_servers, f"{topic}:0:0:50", config=SASL)

    verdict.complete(without_secrets(outcome), ledger(topic, range(50)), within_s=15)
    verdict.has_fired(is_denied_its_group(own_broker, topic))


def is_denied_its_group(broker, topic):
    """Whether a bare client that reads the topic hears that it may not use its group."""
    properties = {"bootstrap.servers": broker.sasl_servers, "group.id": topic, "enable.auto.commit": False}
    consumer = Consumer({**SASL, **properties, "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    codes, deadline = [], time.monotonic() + 10
    while KafkaError.GROUP_AUTHORIZATION_FAILED not in codes and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        codes.append(message.error().code() if message is not None and message.error() else 0)
    consumer.close()
    return KafkaError.GROUP_AUTHORIZATION_FAILED in codes


@pytest.mark.case(25)
def test_a_right_that_is_revoked_amid_a_read_is_an_error_with_the_place(own_broker, how, verdict, monkeypatch):
    topic = own_broker.new_topic()
    own_broker.produce(topic, records(topic, range(60), size=LARGE))
    grant(own_broker, topic)
    slowly = {"config": {**SASL, **LITTLE_AHEAD}, "batch_records": 1, "stall_timeout_s": 20}

    with fault(monkeypatch, lambda: revoke(own_broker, topic)) as fired:
        outcome = read(how, own_broker.sasl_servers, f"{topic}:0:0:60", **slowly)

    place = f"at {topic}:0@{len(outcome.delivered) if how == 'chain-0' else ''}"
    truth = ledger(topic, range(60))
    verdict.failed(without_secrets(outcome), AuthorizationError, place, "READ", within_s=10, truth=truth)
    verdict.has_fired(fired.result is not None)


@pytest.mark.case(26)
def test_records_larger_than_the_fetch_sizes_are_read(cluster, how, verdict):
    topic = cluster.new_topic(max_message_bytes="5000000")
    cluster.produce(topic, records(topic, range(3), size=900_000))
    config = {"fetch.message.max.bytes": 1000, "fetch.max.bytes": 100_000, "message.max.bytes": 50_000}

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:3", config=config)

    verdict.complete(outcome, ledger(topic, range(3)), within_s=15)
    verdict.has_fired(sum(len(value) > config["fetch.max.bytes"] for _, value in outcome.delivered))


def too_large(how, servers, topic, verdict):
    config = {"receive.message.max.bytes": 101_000, "fetch.max.bytes": 100_000, "message.max.bytes": 50_000}

    outcome = read(how, servers, f"{topic}:0:0:3", config=config)

    verdict.failed(outcome, ConfigError, f"{topic}:0@", "receive.message.max.bytes", "raise", within_s=5)
    verdict.has_fired("Invalid response size" in outcome.text)


@pytest.mark.case(27)
def test_a_response_larger_than_the_client_takes_is_an_error_that_names_the_property(cluster, how, verdict):
    topic = cluster.new_topic()
    cluster.produce(topic, records(topic, range(3), size=900_000))

    too_large(how, cluster.bootstrap_servers, topic, verdict)


@pytest.mark.case(27)
def test_the_embedded_broker_sends_too_much_as_well(embedded, how, verdict):
    embedded.fill("t", records("t", range(3), size=900_000))

    too_large(how, embedded.bootstrap_servers, "t", verdict)
