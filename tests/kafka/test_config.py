import functools
import logging
import pickle
import traceback

import pytest
from torch.utils.data import DataLoader

from kafkapipes import ConfigError, KafkaPipesError, RangeParser, SecurityWarning, TrainingKafkaDataset
from kafkapipes.kafka.config import ClientConfig, answer_ms, fetch_ms, insecurities

CANARY = "canary-7f3a9c"
SECRETS = {"sasl.password": CANARY, "ssl.key.password": CANARY + "k", "sasl.username": CANARY + "u"}


def config(**properties):
    return ClientConfig("b:9092", "g", {name.replace("_", "."): value for name, value in properties.items()})


def fetch_secret(secret=CANARY):
    return secret


@pytest.mark.parametrize("show", [repr, str, lambda item: f"{item}", lambda item: pickle.dumps(item).decode("latin1")])
def test_no_value_shows_in_repr_str_or_pickle(show):
    assert CANARY not in show(ClientConfig("b:9092", "g", SECRETS))


@pytest.mark.parametrize(
    "name", ["security.protocol", "isolation.level", "nonsense", "fetch.max.bytes", "sasl.mechanism"]
)
def test_a_secret_put_into_the_wrong_property_is_not_echoed(name, caplog):
    caplog.set_level(logging.DEBUG)
    reader = RangeParser("t:0:0:1").read_partitions("127.0.0.1:1", config={name: CANARY}, connect_timeout_s=0.5)

    with pytest.raises(KafkaPipesError) as caught:
        list(reader)

    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY not in caplog.text


def test_no_secret_shows_in_an_error_a_pipe_or_a_log(embedded, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    embedded.fill("t", [(b"a", None)])
    secrets = {"sasl.password": CANARY, "client.id": CANARY, "client.rack": CANARY, "debug": "all"}
    reader = RangeParser("t:0:0:1").read_partitions(embedded.bootstrap_servers, config=secrets)
    pipe = reader.decode_bytes("float64")

    with pytest.raises(KafkaPipesError) as caught:
        list(pipe)

    pickled = pickle.dumps(pipe).decode("latin1")
    shown = [str(caught.value), *(repr(item) + str(item) for item in (reader, pipe)), pickled, str(reader.report)]
    assert not [text for text in shown if CANARY in text]
    assert "sasl.password" in repr(reader)
    assert caplog.text  # the client did log
    captured = capfd.readouterr()
    assert CANARY not in captured.out + captured.err


EXITS = {
    "a property that is refused": ({"security.protocol": CANARY}, 0),
    "a mechanism that is none": ({"security.protocol": "sasl_ssl", "sasl.mechanism": CANARY * 40}, 0),
    "a broker that is not there": ({"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}, 0),
    "a range that is not there": ({}, 9),
    "a record that does not fit": ({}, 2),
}


@pytest.mark.parametrize(("properties", "end"), EXITS.values(), ids=EXITS)
def test_no_secret_leaves_by_error_traceback_warning_log_report_or_stream(
    properties, end, embedded, caplog, capfd, recwarn
):
    caplog.set_level(logging.DEBUG)
    embedded.fill("t", [(b"a", None), (b"abc", None)])
    servers = embedded.bootstrap_servers if end else "127.0.0.1:1"
    secrets = {"sasl.password": CANARY, "sasl.username": CANARY + "u", "ssl.key.password": CANARY + "k", "debug": "all"}
    reader = RangeParser(f"t:0:0:{end or 1}").read_partitions(
        servers, config={**secrets, **properties}, connect_timeout_s=10 if end else 0.5
    )

    with pytest.raises(KafkaPipesError) as caught:
        list(reader.decode_bytes("uint8").transform_samples())

    report = str(reader.report) + str(reader.report.to_dict())
    shown = ["".join(traceback.format_exception(caught.value)), str(vars(caught.value)), report, caplog.text]
    assert not [text for text in [*shown, *map(str, recwarn), *capfd.readouterr()] if CANARY in text]
    assert "kafkapipes.client" in caplog.text or end == 0  # the client did log


CLEAR = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.password": CANARY}
INSECURE = [
    ("b:9092", CLEAR, "the password or token goes to b:9092 in clear"),
    ("localhost:1,10.0.0.1:2", CLEAR, "goes to 10.0.0.1:2 in clear"),
    ("b:9092", {"security.protocol": "sasl_plaintext", "sasl.mechanisms": "OAUTHBEARER"}, "mechanism OAUTHBEARER"),
    ("b:9092", {"enable.ssl.certificate.verification": False}, "enable.ssl.certificate.verification is off"),
    ("b:9092", {"enable.ssl.certificate.verification": "0"}, "enable.ssl.certificate.verification is off"),
    ("b:9092", {"ssl.endpoint.identification.algorithm": "NONE"}, "ssl.endpoint.identification.algorithm is 'none'"),
]
SECURE_ENOUGH = [
    ("localhost:9092", CLEAR),
    ("[::1]:9092", CLEAR),
    ("b:9092", {}),
    ("b:9092", {"security.protocol": "PLAINTEXT", "sasl.mechanism": "PLAIN"}),
    ("b:9092", {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}),
    ("b:9092", {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512"}),
    ("b:9092", {"enable.ssl.certificate.verification": True, "ssl.endpoint.identification.algorithm": "https"}),
]


@pytest.mark.parametrize(("servers", "properties", "text"), INSECURE)
def test_what_gives_a_password_away_or_lets_others_pose_as_the_broker_is_warned_of(servers, properties, text):
    with pytest.warns(SecurityWarning, match=text) as caught:
        ClientConfig(servers, "g", properties)

    assert len(caught) == 1
    assert CANARY not in str(caught[0].message)


@pytest.mark.parametrize(("servers", "properties"), SECURE_ENOUGH)
def test_what_sends_no_password_in_clear_and_verifies_the_broker_is_not_warned_of(servers, properties):
    assert insecurities(servers, properties) == []


def say_none():
    return "none"


def test_what_only_a_provider_tells_is_warned_of_when_a_client_is_made_once_and_not_again_in_a_worker():
    made = ClientConfig("b:9092", "g", {"ssl.endpoint.identification.algorithm": say_none})

    with pytest.warns(SecurityWarning, match="identification") as caught:
        made.admin()
    again = pickle.loads(pickle.dumps(made))

    assert len(caught) == 1
    for client in (made.admin(), made.consumer(), again.consumer()):  # a second warning would be an error
        assert client["ssl.endpoint.identification.algorithm"] == "none"


def test_a_dataset_keeps_no_secret(embedded):
    embedded.fill("t", [(b"a", None)])
    message = {"topic": "t:0:0:1", "input_config": {"data_type": "uint8"}}
    dataset = TrainingKafkaDataset(message, embedded.bootstrap_servers, "g", config={"sasl.password": CANARY})

    assert CANARY not in pickle.dumps(dataset).decode("latin1") + repr(vars(dataset)) + str(dataset.report.to_dict())


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_gets_the_properties_that_a_pickle_leaves_out(embedded, start_method):
    embedded.fill("t", [(b"a", None), (b"b", None)])
    reader = RangeParser("t:0:0:2").read_partitions(embedded.bootstrap_servers, config={"sasl.password": CANARY})
    loader = DataLoader(
        reader.decode_bytes("uint8").transform_samples(),
        num_workers=1,
        batch_size=None,
        multiprocessing_context=start_method,
    )

    assert [int(value) for value in loader] == [97, 98]


def test_a_pickled_config_says_what_it_lacks_when_it_is_used():
    again = pickle.loads(pickle.dumps(config(sasl_password=CANARY)))

    with pytest.raises(ConfigError, match=r"sasl\.password were left out when this object was pickled"):
        again.consumer()
    with pytest.raises(ConfigError) as caught:
        list(pickle.loads(pickle.dumps(RangeParser("t:0:0:1").read_partitions("b:9092", config=SECRETS))))
    assert "refused" not in str(caught.value)  # it is no word of the client's


def test_a_config_with_safe_settings_and_a_logger_can_be_pickled():
    made = ClientConfig("b:9092", "g", {"enable.auto.commit": False, "logger": logging.getLogger("mine")})

    assert (
        repr(pickle.loads(pickle.dumps(made)))
        == "ClientConfig('b:9092', properties: enable.auto.commit; values hidden)"
    )


def test_a_callable_fetches_its_value_where_the_client_is_made():
    provider = functools.partial(fetch_secret, "fetched")

    again = pickle.loads(pickle.dumps(config(sasl_password=provider)))

    assert again.consumer()["sasl.password"] == "fetched"
    assert "fetched" not in repr(again)


def test_a_callable_that_fetches_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"sasl\.password has no value: its callable returned NoneType"):
        config(sasl_password=lambda: None).consumer()


def test_a_range_reader_never_commits_and_checks_everything():
    made = config(fetch_min_bytes=7, check_crcs=False).consumer()

    assert (made["enable.auto.commit"], made["enable.auto.offset.store"], made["auto.offset.reset"]) == (
        False,
        False,
        "error",
    )
    assert (made["enable.partition.eof"], made["isolation.level"]) == (True, "read_committed")
    assert (made["fetch.min.bytes"], made["check.crcs"]) == (7, False)  # the user's word, where it is safe


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"enable.auto.commit": True}, "enable.auto.commit"), ({"enable.auto.offset.store": "true"}, "offset.store"),
        ({"enable.partition.eof": False}, "enable.partition.eof"), ({"bootstrap.servers": "x"}, "bootstrap.servers"),
        ({"auto.offset.reset": "earliest"}, "auto.offset.reset"),
        ({"default.topic.config": {}}, "default.topic.config"),
        ({"logger": 5}, "logger"), ({"client.id": "\ud800"}, "client.id"), ({"sasl.password": b"x"}, "bytes"),
        ({"sasl.password": [1]}, "list"),
        ({"group.id": "x"}, "group.id"), ({1: 2}, "dictionary"), ("sasl.password", "dictionary"),
    ],
)  # fmt: skip
def test_a_property_that_would_break_the_promise_is_refused(properties, text):
    with pytest.raises(ConfigError, match=text):
        ClientConfig("b:9092", "g", properties)


@pytest.mark.parametrize("servers", ["", [], [""], None, 7, [1], {"a": 1}, "\ud800:1", "a\0:1"])
def test_senseless_servers_are_refused(servers):
    with pytest.raises(ConfigError, match="bootstrap_servers"):
        ClientConfig(servers, "g")


@pytest.mark.parametrize("group", ["", None, 5, " ", "\t", "\ud800", "a\0"])
def test_a_senseless_group_is_refused(group):
    with pytest.raises(ConfigError, match="group_id"):
        ClientConfig("b:9092", group)


def test_servers_may_be_a_list():
    assert ClientConfig(["a:1", " b:2"], "g").consumer()["bootstrap.servers"] == "a:1,b:2"


@pytest.mark.parametrize(("piece", "answer"), [(1, 73_728), (2**20, 1_179_648), (2**40, 18_874_368)])
def test_a_reader_of_pieces_fetches_no_more_than_one_ahead_unless_its_user_wants_it(piece, answer):
    own = ClientConfig("a:1", "g").consumer(piece_bytes=piece)
    users = ClientConfig("a:1", "g", {"max.partition.fetch.bytes": 7, "queued.min.messages": 8}).consumer(
        piece_bytes=piece
    )

    assert own["max.partition.fetch.bytes"] == answer
    assert own["queued.max.messages.kbytes"] == answer * 8 // 9 // 1024
    assert own["check.crcs"] is True
    assert (users["max.partition.fetch.bytes"], users["queued.min.messages"]) == (7, 8)
    assert "max.partition.fetch.bytes" not in ClientConfig("a:1", "g").consumer()


def test_the_callers_dictionary_is_neither_kept_nor_changed():
    properties = {"client.id": "a"}
    made = ClientConfig("b:9092", "g", properties)
    made.consumer()
    properties["client.id"] = "b"

    assert made.consumer()["client.id"] == "a"
    assert properties == {"client.id": "b"}


def test_other_clients_are_not_given_what_only_a_consumer_knows():
    made = config(fetch_min_bytes=1, check_crcs=True, sasl_mechanism="PLAIN")

    for properties in (made.admin(), made.producer()):
        assert "sasl.mechanism" in properties
        assert not {"fetch.min.bytes", "check.crcs", "group.id"} & set(properties)


def test_control_characters_of_a_broker_are_escaped():
    assert config().scrub("bad\x1b[31m name\r\n") == "bad\\x1b[31m name\\r\n"


def test_a_callable_tells_the_isolation_level_too():
    assert config(isolation_level=lambda: "read_committed").reads_committed
    assert not config(isolation_level=lambda: "read_uncommitted").reads_committed


def test_a_value_that_is_no_secret_does_not_hide_the_same_word_elsewhere():
    made = ClientConfig("b:9092", "g", {"client.id": "clicks", "debug": "topic"})

    assert made.scrub('no topic clicks; Invalid value "clicks"') == 'no topic clicks; Invalid value "***"'


def test_a_secret_of_digits_and_one_that_was_fetched_are_masked_too():
    fetched = iter(["first-secret", "second-secret"])
    made = config(sasl_password="8472910473", sasl_oauthbearer_client_secret=lambda: next(fetched))
    made.consumer()

    assert made.scrub("8472910473 and first-secret") == "*** and ***"
    assert next(fetched) == "second-secret"  # masking fetches nothing


@pytest.mark.parametrize("properties", [{"enable.idempotence": False}, {"delivery.report.only.error": True}])
def test_a_producer_that_could_double_or_hide_records_is_refused(properties):
    with pytest.raises(ConfigError, match="leave it out"):
        ClientConfig("b:9092", "g", properties).producer()


def test_the_isolation_level_is_understood_in_any_case():
    assert config(isolation_level="READ_COMMITTED").reads_committed


def test_a_logger_that_raises_takes_nothing_along(embedded):
    class Broken:
        def log(self, *args):
            raise ZeroDivisionError

    embedded.fill("t", [(b"a", None)] * 10)
    reader = RangeParser("t:0:0:10").read_partitions(
        embedded.bootstrap_servers, config={"logger": Broken(), "debug": "all"}
    )

    assert sum(map(len, reader)) == 10


def test_plain_words_and_numbers_stay_readable():
    made = config(sasl_mechanism="PLAIN", fetch_min_bytes="1000", sasl_password="s3cret-word")

    assert made.scrub("PLAIN at 1000: s3cret-word") == "PLAIN at 1000: ***"


@pytest.mark.parametrize(("timeout_s", "ms"), [(0.1, 1000), (30, 7500), (600, 10_000)])
def test_a_question_leaves_time_to_ask_another_broker(timeout_s, ms):
    assert answer_ms(timeout_s) == ms


@pytest.mark.parametrize(("timeout_s", "ms"), [(0.1, 1100), (60, 30_000), (600, 60_000)])
def test_a_fetch_leaves_time_for_another_connection(timeout_s, ms):
    assert fetch_ms(timeout_s) == ms
