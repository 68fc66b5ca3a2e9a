"""The rights that docs/security.md asks for are enough, on a broker that denies whatever is not allowed."""

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from kafkapipes import AuthorizationError, DeliveryError, KafkaSink, RangeParser
from tests.kafka.cluster import SASL

pytestmark = pytest.mark.kafka


def allow(broker, topic, operation):
    binding = AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:reader", "*", operation, AclPermissionType.ALLOW
    )
    broker.admin.create_acls([binding])[binding].result(30)


def test_a_sink_needs_the_right_to_write_its_topic_and_none_to_read_it(own_broker):
    topic = own_broker.new_topic()
    allow(own_broker, topic, AclOperation.WRITE)

    with KafkaSink(topic, own_broker.sasl_servers, config=SASL) as sink:
        sink.send_batch([[1, 2], [3, 4]])

    assert sink.control_message.topic == f"{topic}:0:0:2"
    with pytest.raises(AuthorizationError, match="READ"):
        list(RangeParser(f"{topic}:0:0:2").read_partitions(own_broker.sasl_servers, config=SASL))


def test_a_reader_may_not_write(own_broker):
    topic = own_broker.new_topic()
    allow(own_broker, topic, AclOperation.READ)
    sink = KafkaSink(topic, own_broker.sasl_servers, config=SASL)
    sink.send([1, 2])

    with pytest.raises(DeliveryError, match="TOPIC_AUTHORIZATION_FAILED"):
        sink.close()
