"""The only rooms that know confluent_kafka."""
