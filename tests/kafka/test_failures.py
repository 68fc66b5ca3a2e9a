import pytest
from confluent_kafka import KafkaError, KafkaException

from kafkapipes import errors
from kafkapipes.kafka import failures
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import ADVICE, TERMINAL, Complaints, failure, failure_of

CONFIG = ClientConfig("b:9092", "g", {"sasl.password": "canary"})


@pytest.mark.parametrize("code", sorted(TERMINAL))
def test_a_terminal_code_becomes_its_error_with_place_cause_and_advice(code):
    made = failure(KafkaError(code, "why it is so"), "reading t:0@5", CONFIG)

    assert type(made) is TERMINAL[code]
    assert str(made) == f"reading t:0@5: {KafkaError(code).name()}: why it is so; {ADVICE[type(made)]}"


@pytest.mark.parametrize(
    ("text", "kind"), [("log truncation detected", errors.TruncationError), ("out of range", errors.DataLossError)]
)
def test_a_reset_is_truncation_or_loss_by_its_text(text, kind):
    assert type(failure(KafkaError(KafkaError._AUTO_OFFSET_RESET, text), "t:0@5", CONFIG)) is kind


def test_an_unknown_code_is_still_our_error():
    assert type(failure(KafkaError(KafkaError._FAIL, "x"), "t:0@5", CONFIG)) is errors.KafkaPipesError


def test_a_secret_in_the_clients_text_is_masked():
    assert "canary" not in str(failure(KafkaError(KafkaError._SSL, "canary failed"), "t:0@5", CONFIG))


def test_an_exception_of_the_client_becomes_the_error_of_its_code():
    exc = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    assert type(failure_of(exc, "t", CONFIG)) is errors.AuthorizationError
    assert type(failure_of(ValueError("no canary"), "t", CONFIG)) is errors.ConfigError


def test_the_most_telling_complaint_is_the_last_but_all_brokers_down():
    complaints = Complaints(CONFIG)
    assert complaints.last == ""

    complaints.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "0/1"))
    assert complaints.last == "_ALL_BROKERS_DOWN: 0/1"

    complaints.log(6, "%s [%s] %s", "FAIL", "client-1", "[thrd:b:1]: b:1: Disconnected")
    complaints.log(6, "%s [%s] %s", "OTHER", "client-1", "[thrd:b:1]: b:1: fine")
    assert complaints.last == "b:1: Disconnected"

    complaints.log(5, "%s [%s] %s", "REQTMOUT", "client-1", "[thrd:b:1]: b:1: Timed out FetchRequest")
    assert complaints.last == "b:1: Timed out FetchRequest"

    complaints.note(KafkaError(KafkaError._TRANSPORT, "refused"))
    complaints.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "0/1"))
    assert complaints.last == "_TRANSPORT: refused"


def test_the_users_own_callback_hears_every_complaint():
    heard = []
    error = KafkaError(KafkaError._TRANSPORT, "refused")

    Complaints(ClientConfig("b:9092", "g", {"error_cb": heard.append})).note(error)

    assert heard == [error]


def test_the_users_own_logger_gets_the_clients_lines_scrubbed():
    class Lines(list):
        def log(self, level, template, *parts):
            self.append((level, template % parts))

    lines = Lines()
    complaints = Complaints(ClientConfig("b:9092", "g", {"logger": lines, "sasl.password": "canary"}))
    complaints.log(30, "%s [%s] %s", "FAIL", "thread", "canary was wrong")

    assert lines == [(30, "FAIL [thread] *** was wrong")]


def test_complaints_are_found_by_the_error_they_mean():
    complaints = Complaints(CONFIG)
    complaints.note(KafkaError(KafkaError._AUTHENTICATION, "first"))
    complaints.note(KafkaError(KafkaError._AUTHENTICATION, "second"))

    assert complaints.find(errors.AuthError).str() == "second"
    assert complaints.find(errors.TopicError) is None


def test_a_response_too_large_is_told_from_a_garbled_one_by_its_text():
    complaints = Complaints(CONFIG)
    complaints.note(KafkaError(KafkaError._BAD_MSG, "Invalid CorrId 5"))
    assert complaints.too_large == ""

    complaints.note(KafkaError(KafkaError._BAD_MSG, "Invalid response size 9: increase receive.message.max.bytes"))
    assert "increase receive.message.max.bytes" in complaints.too_large


def test_a_client_that_logs_without_end_is_cut_short_and_what_was_left_out_is_counted(caplog, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(failures.time, "monotonic", lambda: clock[0])
    caplog.set_level("DEBUG")
    complaints = Complaints(CONFIG)

    for number in range(50):
        complaints.log(20, "%s [%s] %s", "FAIL", "client-1", f"[thrd:b]: line {number}")
    assert len(caplog.records) == failures.LOG_LINES
    complaints.log(10, "%s [%s] %s", "MSG", "client-1", "[thrd:b]: asked for by debug")
    assert len(caplog.records) == failures.LOG_LINES + 1
    clock[0] += failures.LOG_S
    complaints.log(20, "%s [%s] %s", "FAIL", "client-1", "[thrd:b]: later")

    assert f"later ({50 - failures.LOG_LINES} lines before this one were left out)" in caplog.text


@pytest.mark.parametrize("name", ["error_cb", "stats_cb"])
def test_a_callback_that_raises_is_an_error_of_its_name_and_not_inside_the_client(name):
    def tell(what):
        raise ValueError("no, canary")

    complaints = Complaints(ClientConfig("b:9092", "g", {"sasl.password": "canary", name: tell}))
    properties = complaints.listening({name: tell})
    complaints.check_callbacks("t:0@5")

    properties[name]("{}" if name == "stats_cb" else KafkaError(KafkaError._TRANSPORT))

    with pytest.raises(errors.ConfigError, match=rf"t:0@5: the {name} of config raised ValueError: no, \*\*\*"):
        complaints.check_callbacks("t:0@5")


@pytest.mark.parametrize(
    ("code", "text", "cut"),
    [
        (KafkaError._AUTHENTICATION, "SASL PLAIN mechanism handshake failed: Local: Broker transport failure", True),
        (KafkaError._AUTHENTICATION, "SASL authentication error: Authentication failed", False),
        (KafkaError._SSL, "handshake failed", True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "timed out", False),
    ],
)
def test_a_handshake_that_ends_with_its_connection_is_told_from_one_that_is_refused(code, text, cut):
    assert failures.was_cut_short(KafkaError(code, text)) == cut


def test_the_users_own_statistics_callback_hears_them_too():
    heard = []
    properties = Complaints(CONFIG).listening({"stats_cb": heard.append})

    properties["stats_cb"]('{"name": "x"}')

    assert heard == ['{"name": "x"}']
