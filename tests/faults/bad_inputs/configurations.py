"""Configurations: addresses, groups, client properties, options, and what the embedded broker is told."""

from kafkapipes import (
    ByteDecoder,
    ConfigError,
    FromEnvironment,
    KafkaPipesError,
    KafkaSink,
    PartitionReader,
    RangeError,
    RangeParser,
)
from kafkapipes.testing import EmbeddedKafka
from tests.faults.bad_inputs import CANARY, BadInput

NOWHERE = "127.0.0.1:1"  # nothing listens there
LONG = CANARY + "-0123456789abcdef" * 60  # longer than the texts of the client, which cuts it off
UNSET = "KAFKAPIPES_TEST_NOT_SET"


class Broken:
    """A provider that fails with the secret in its text."""

    def __call__(self):
        raise RuntimeError(CANARY)


def given(value):
    return lambda: value


def plan(properties):
    """Make the client: what only it can refuse is refused here, before anything is sent."""
    RangeParser("t:0:0:1").read_partitions(NOWHERE, config=properties, connect_timeout_s=0.5).plan()


SERVERS = [
    ("empty", "", "nothing"),
    ("blank", "  ", "nothing"),
    ("no list", [], "a list of nothing"),
    ("an empty one in a list", ["b:9092", ""], "in place 2 of 2 nothing"),
    ("a comma at the end", "b:9092,", "in place 2 of 2"),
    ("None", None, "a NoneType"),
    ("a number", 9092, "a int"),
    ("numbers", [9092], "a list of int"),
    ("bytes", b"b:9092", "a bytes"),
    ("a dictionary", {"sasl.password": CANARY}, "a dict"),
    ("a set", {"b:9092"}, "a set"),
    ("a user and a password", f"reader:{CANARY}@b:9092", "an '@': a user and a password belong in config"),
    ("a password in a list", ["b:9092", f":{CANARY}@c:9092"], "in place 2 of 2 an '@'"),
    ("a protocol", "SASL_PLAINTEXT://b:9092", "a '://': the protocol belongs in config, as security.protocol"),
    ("a connection string", f"Endpoint=sb://x/;SharedAccessKey={CANARY}", "a '://'"),
    ("port 0", "b:0", "that is no address"),
    ("port 99999", "b:99999", "that is no address"),
    ("a negative port", "b:-1", "that is no address"),
    ("a word for a port", "b:kafka", "that is no address"),
    ("a port in Arabic digits", "b:٩٠٩٢", "that is no address"),
    ("no host", ":9092", "that is no address"),
    ("a blank inside", "a b:9092", "that is no address"),
    ("an address without brackets", "::1:9092", "that is no address"),
    ("an open bracket", "[::1", "that is no address"),
    ("a null character", "a\0:1", "a text of 4 characters"),
    ("half a character", "\ud800:1", "a text of 3 characters"),
    ("a newline", "a:1\nb:1", "that is no address"),
    ("a path", "b:9092/topic", "that is no address"),
    ("a host of 300 characters", "b" * 300, "a text of 300 characters"),
]
GROUPS = [
    ("empty", "", "group_id has 0 characters"),
    ("blank", " \t", "group_id has 2 characters, 0 without blanks"),
    ("None", None, "group_id is a NoneType"),
    ("a number", 5, "group_id is a int"),
    ("bytes", b"g", "group_id is a bytes"),
    ("the config", {"sasl.password": CANARY}, "group_id is a dict"),
    ("too long", "g" * 250, "group_id has 250 characters"),
    ("a null character", "a\0", "group_id holds a character"),
    ("half a character", "\ud800", "group_id holds a character"),
]
# Refused when it is given: what would lose or double records, abort the process, or cannot be a property.
PROPERTIES = [
    ("no dictionary", CANARY, "config is a str, wanted a dictionary"),
    ("a list", [("a", CANARY)], "config is a list"),
    ("a number for a name", {5: CANARY}, "1 key(s) that are no property names"),
    ("a sentence for a name", {f"my password is {CANARY}": 1}, "1 key(s) that are no property names"),
    ("an empty name", {"": CANARY}, "1 key(s) that are no property names"),
    ("a long name", {CANARY * 20: 1}, "1 key(s) that are no property names"),
    ("the servers", {"bootstrap.servers": CANARY}, "bootstrap.servers: pass it as an argument"),
    ("the group", {"group.id": CANARY}, "group.id: pass it as an argument"),
    ("topic properties", {"default.topic.config": {"a": CANARY}}, "default.topic.config"),
    ("commits", {"enable.auto.commit": True}, "enable.auto.commit, wanted False"),
    ("stored offsets", {"enable.auto.offset.store": "true"}, "enable.auto.offset.store, wanted False"),
    ("no end of partitions", {"enable.partition.eof": False}, "enable.partition.eof, wanted True"),
    ("a reset", {"auto.offset.reset": "earliest"}, "auto.offset.reset, wanted 'error'"),
    ("a logger that logs nothing", {"logger": CANARY}, "a logger that is a str"),
    ("no logger", {"logger": None}, "a logger that is a NoneType"),
    ("an error callback that is none", {"error_cb": 5}, "the property error_cb is a int, wanted a callable"),
    ("a statistics callback that is none", {"stats_cb": CANARY}, "the property stats_cb is a str, wanted a callable"),
    ("bytes", {"sasl.password": CANARY.encode()}, "the property sasl.password is a bytes, wanted a text"),
    ("a list for a value", {"sasl.password": [CANARY]}, "the property sasl.password is a list"),
    ("None for a value", {"sasl.password": None}, "the property sasl.password is a NoneType"),
    ("a null character", {"sasl.password": CANARY + "\0"}, "the property sasl.password holds a character"),
    ("half a character", {"sasl.password": CANARY + "\ud800"}, "the property sasl.password holds a character"),
    ("NaN", {"socket.timeout.ms": float("nan")}, "the property socket.timeout.ms is a float, wanted a text, a number"),
    ("infinity", {"socket.timeout.ms": float("inf")}, "socket.timeout.ms is a float"),
    (
        "a number past 64 bits",
        {"socket.timeout.ms": 2**63},
        "socket.timeout.ms is a int, wanted a text, a number of 64",
    ),
    ("a number of 5000 digits", {"socket.timeout.ms": 10**5000}, "socket.timeout.ms is a int"),
]
# Refused when the client is made: only librdkafka knows what it knows, and what a provider gives.
REFUSED = [
    ("a misspelt name", {"sasl.pasword": CANARY}, 'No such configuration property: "sasl.pasword"'),
    ("a name in capitals", {"SASL.PASSWORD": CANARY}, "No such configuration property"),
    ("a secret for a protocol", {"security.protocol": CANARY}, 'Invalid value "***" for configuration property'),
    ("a long secret for a protocol", {"security.protocol": LONG}, 'Invalid value "***'),
    ("a secret for a mechanism", {"security.protocol": "sasl_ssl", "sasl.mechanism": CANARY}, "SASL mechanism: ***"),
    ("a long secret for a mechanism", {"security.protocol": "sasl_ssl", "sasl.mechanism": LONG}, "SASL mechanism: ***"),
    ("a secret for a plugin", {"plugin.library.paths": CANARY}, "dlopen() failed: ***"),
    ("a secret for an address family", {"broker.address.family": CANARY}, 'Invalid value "***"'),
    ("a secret for what to log", {"debug": LONG}, 'Invalid value "***'),
    ("a secret in a pattern", {"topic.blacklist": f"({CANARY}"}, "Failed to parse pattern"),
    ("a secret for a number", {"socket.timeout.ms": CANARY}, "Invalid value for configuration property"),
    ("a number too small", {"socket.timeout.ms": 1}, "is outside allowed range 10..300000"),
    ("a text for a truth", {"socket.keepalive.enable": "maybe"}, "Expected bool value"),
    ("a key that is none", {"security.protocol": "ssl", "ssl.key.pem": CANARY}, "ssl.key.pem failed"),
    ("a certificate that is none", {"security.protocol": "ssl", "ssl.certificate.pem": CANARY}, "ssl.certificate.pem"),
    ("a certificate that is not there", {"security.protocol": "ssl", "ssl.ca.location": "/nowhere"}, "ssl.ca.location"),
    (
        "a variable that is not set",
        {"sasl.password": FromEnvironment(UNSET)},
        f"sasl.password has no value: the environment variable {UNSET} is not set",
    ),
    (
        "a provider that fails",
        {"sasl.password": Broken()},
        "sasl.password has no value: its callable raised RuntimeError",
    ),
    (
        "a provider of nothing",
        {"sasl.password": given(None)},
        "its callable returned NoneType, wanted a text or number",
    ),
    ("a provider of bytes", {"sasl.password": given(CANARY.encode())}, "its callable returned bytes"),
    ("a provider of a list", {"sasl.password": given([CANARY])}, "its callable returned list"),
    (
        "a provider of a null character",
        {"sasl.password": given(CANARY + "\0")},
        "the value fetched for the property sasl.password holds",
    ),
    ("a provider that wants more", {"sasl.password": lambda name: name}, "its callable raised TypeError"),
    ("a provider of a wrong word", {"security.protocol": given(LONG)}, 'Invalid value "***'),
]
VARIABLES = [
    ("a blank name", " "),
    ("an empty name", ""),
    ("a name with a sign", f"{CANARY}="),
    ("a number", 5),
    ("None", None),
    ("a name with a blank", f"{CANARY} X"),
    ("a digit first", "1A"),
    ("a null character", "A\0"),
]
SECONDS = [
    ("zero", 0, "0"),
    ("negative", -1, "-1"),
    ("NaN", float("nan"), "nan"),
    ("infinite", float("inf"), "inf"),
    ("a text", "30", "'30'"),
    ("None", None, "None"),
    ("a truth", True, "True"),
    ("two days", 172_800, "172800"),
    ("a huge number", 10**5000, "a int whose repr raises ValueError"),
]
RECORDS = [
    ("zero", 0, "0"),
    ("negative", -5, "-5"),
    ("a fraction", 10.0, "10.0"),
    ("a text", "10", "'10'"),
    ("a truth", True, "True"),
    ("two million", 2_000_000, "2000000"),
    ("a huge number", 10**5000, "a int whose repr raises ValueError"),
]
POLICIES = [
    ("on_data_loss", "ignore", "wanted one of 'raise', 'continue'"),
    ("on_data_loss", None, "wanted one of"),
    ("on_short", "Raise", "wanted one of 'raise', 'stop', 'wait'"),
    ("on_short", ["stop"], "wanted one of"),
    ("on_short", True, "wanted one of"),
]
DECODER_POLICIES = [
    ("on_error", "ignore"),
    ("on_error", None),
    ("tombstone", "keep"),
    ("tombstone", b"skip"),
    ("null_key", "SKIP"),
    ("null_key", 1),
]
SINK = [
    ("a topic of blanks", ("a b", NOWHERE), {}, RangeError, "the topic is 'a b'"),
    ("a topic of bytes", (b"t", NOWHERE), {}, RangeError, "the topic is b't'"),
    ("a config that is a list", ("t", NOWHERE), {"config": [CANARY]}, ConfigError, "config is a list"),
    (
        "a timeout as a property",
        ("t", NOWHERE),
        {"config": {"message.timeout.ms": 5}},
        ConfigError,
        "delivery_timeout_s",
    ),
    (
        "a description that is a number",
        ("t", NOWHERE),
        {"description": 5},
        ConfigError,
        "description is 5, wanted a text",
    ),
    ("a type of objects", ("t", NOWHERE), {"data_type": "O"}, ConfigError, "the type is 'O', wanted the name of"),
    (
        "a delivery in no time",
        ("t", NOWHERE),
        {"delivery_timeout_s": 0},
        ConfigError,
        "delivery_timeout_s is 0, wanted seconds",
    ),
    ("a password in the address", ("t", f"u:{CANARY}@b:9092"), {}, ConfigError, "an '@'"),
]


def on_embedded(act):
    """Do something with an embedded broker."""

    def give():
        with EmbeddedKafka() as kafka:
            act(kafka)

    return give


def closed():
    kafka = EmbeddedKafka()
    kafka.close()
    return kafka


EMBEDDED = [
    ("no broker", lambda: EmbeddedKafka(0), ConfigError, "brokers is 0, wanted a whole number from 1 to 100"),
    ("too many brokers", lambda: EmbeddedKafka(101), ConfigError, "brokers is 101"),
    ("brokers in words", lambda: EmbeddedKafka("3"), ConfigError, "brokers is '3'"),
    ("a true number of brokers", lambda: EmbeddedKafka(True), ConfigError, "brokers is True"),
    ("a topic that is a number", on_embedded(lambda kafka: kafka.create_topic(5)), RangeError, "the topic is 5"),
    ("a topic with a blank", on_embedded(lambda kafka: kafka.create_topic("a b")), RangeError, "the topic is 'a b'"),
    ("an empty topic", on_embedded(lambda kafka: kafka.create_topic("")), RangeError, "the topic is ''"),
    ("a topic with a null character", on_embedded(lambda kafka: kafka.create_topic("a\0b")), RangeError, r"'a\x00b'"),
    (
        "no partition",
        on_embedded(lambda kafka: kafka.create_topic("t", 0)),
        ConfigError,
        "partitions is 0, wanted a whole",
    ),
    (
        "a negative number of partitions",
        on_embedded(lambda kafka: kafka.create_topic("t", -1)),
        ConfigError,
        "partitions is -1",
    ),
    ("too many partitions", on_embedded(lambda kafka: kafka.create_topic("t", 10**12)), ConfigError, "from 1 to 10000"),
    ("partitions in words", on_embedded(lambda kafka: kafka.create_topic("t", "3")), ConfigError, "partitions is '3'"),
    (
        "a true number of partitions",
        on_embedded(lambda kafka: kafka.create_topic("t", True)),
        ConfigError,
        "partitions is True",
    ),
    (
        "a topic twice",
        on_embedded(lambda kafka: [kafka.create_topic("t"), kafka.create_topic("t")]),
        KafkaPipesError,
        "was not created",
    ),
    (
        "records that are a number",
        on_embedded(lambda kafka: kafka.fill("t", 5)),
        ConfigError,
        "records is 5, wanted (value, key)",
    ),
    (
        "a record that is a number",
        on_embedded(lambda kafka: kafka.fill("t", [5])),
        ConfigError,
        "record 0 is 5, wanted a pair",
    ),
    (
        "a record of one",
        on_embedded(lambda kafka: kafka.fill("t", [(b"a",)])),
        ConfigError,
        "record 0 is (b'a',), wanted a pair",
    ),
    (
        "a record of three",
        on_embedded(lambda kafka: kafka.fill("t", [(b"a", b"b", b"c")])),
        ConfigError,
        "wanted a pair",
    ),
    ("a record of texts", on_embedded(lambda kafka: kafka.fill("t", [("a", None)])), ConfigError, "each bytes or None"),
    ("a text for a record", on_embedded(lambda kafka: kafka.fill("t", ["ab"])), ConfigError, "record 0 is 'ab'"),
    (
        "a second record that is bad",
        on_embedded(lambda kafka: kafka.fill("t", [(b"a", None), 7])),
        ConfigError,
        "record 1 is 7",
    ),
    (
        "a record that is too large",
        on_embedded(lambda kafka: kafka.fill("t", [(bytes(3_000_000), None)])),
        KafkaPipesError,
        "MSG_SIZE_TOO_LARGE",
    ),
    (
        "a negative partition",
        on_embedded(lambda kafka: kafka.fill("t", [], -1)),
        ConfigError,
        "partition is -1, wanted a whole",
    ),
    (
        "a partition past all",
        on_embedded(lambda kafka: kafka.fill("t", [], 10**9)),
        ConfigError,
        "partition is 1000000000",
    ),
    ("a partition in words", on_embedded(lambda kafka: kafka.fill("t", [], "0")), ConfigError, "partition is '0'"),
    ("a topic when closed", lambda: closed().create_topic("t"), KafkaPipesError, "this EmbeddedKafka is closed"),
    ("records when closed", lambda: closed().fill("t", []), KafkaPipesError, "this EmbeddedKafka is closed"),
]


def reader(**options):
    return PartitionReader([], NOWHERE, **options)


CONFIGURATIONS = [
    *(
        BadInput(
            f"servers: {name}",
            lambda item=item: PartitionReader([], item),
            ConfigError,
            ("bootstrap_servers", found, "wanted 'host:port'"),
        )
        for name, item, found in SERVERS
    ),
    *(
        BadInput(f"group: {name}", lambda item=item: PartitionReader([], NOWHERE, item), ConfigError, (found,))
        for name, item, found in GROUPS
    ),
    *(
        BadInput(f"property: {name}", lambda item=item: reader(config=item), ConfigError, (found,))
        for name, item, found in PROPERTIES
    ),
    *(
        BadInput(f"client: {name}", lambda item=item: plan(item), ConfigError, (found,))
        for name, item, found in REFUSED
    ),
    *(
        BadInput(
            f"variable: {name}",
            lambda item=item: FromEnvironment(item),
            ConfigError,
            ("wanted the name of an environment variable",),
        )
        for name, item in VARIABLES
    ),
    *(
        BadInput(
            f"{option}: {name}",
            lambda option=option, item=item: reader(**{option: item}),
            ConfigError,
            (f"{option} is {found}, wanted seconds, from 0.001 to 86400",),
        )
        for option in ("connect_timeout_s", "stall_timeout_s")
        for name, item, found in SECONDS
    ),
    *(
        BadInput(
            f"batch_records: {name}",
            lambda item=item: reader(batch_records=item),
            ConfigError,
            (f"batch_records is {found}, wanted a whole number from 1 to 1000000",),
        )
        for name, item, found in RECORDS
    ),
    *(
        BadInput(
            f"{option}: {item!r}",
            lambda option=option, item=item: reader(**{option: item}),
            ConfigError,
            (f"{option} is {item!r}", found),
        )
        for option, item, found in POLICIES
    ),
    *(
        BadInput(
            f"{option}: {item!r}",
            lambda option=option, item=item: ByteDecoder([], "u1", **{option: item}),
            ConfigError,
            (f"{option} is {item!r}, wanted one of 'raise', 'skip'",),
        )
        for option, item in DECODER_POLICIES
    ),
    *(
        BadInput(f"sink: {name}", lambda args=args, options=options: KafkaSink(*args, **options), error, (found,))
        for name, args, options, error, found in SINK
    ),
    *(BadInput(f"embedded: {name}", give, error, (found,)) for name, give, error, found in EMBEDDED),
    BadInput("ranges: a number", lambda: PartitionReader(5, NOWHERE), RangeError, ("wanted OffsetRanges, found 5",)),
    BadInput(
        "ranges: not ranges",
        lambda: PartitionReader([5], NOWHERE).plan(),
        RangeError,
        ("wanted OffsetRanges, found 5",),
    ),
]
