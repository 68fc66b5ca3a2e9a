import base64
import copy
import json
import pickle
import urllib.parse
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler

import pytest
from torch.utils.data import DataLoader

from kafkapipes import ConfigError, FromEnvironment, KafkaSink, RangeParser, TrainingKafkaDataset
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.dead_letter_topic import DeadLetterTopic
from kafkapipes.kafka.secrets import HiddenValues, Mask, fetch

CANARY = "canary-7f3a9c"
VARIABLE = "KAFKAPIPES_TEST_PASSWORD"
SECRETS = {
    "sasl.username": CANARY + "-user", "sasl.password": CANARY + "-password", "ssl.key.password": CANARY + "-key",
    "sasl.oauthbearer.client.secret": CANARY + "-client", "sasl.oauthbearer.config": f"principal={CANARY}",
    "ssl.keystore.password": CANARY + "-store", "client.id": CANARY,
}  # fmt: skip


def fetch_canary():
    return CANARY


class FailingProvider:
    def __call__(self):
        raise RuntimeError(f"could not log in with {CANARY}")


def reader(servers, **properties):
    config = {name.replace("_", "."): value for name, value in properties.items()} or SECRETS
    return RangeParser("t:0:0:2").read_partitions(servers, config=config)


def dataset(servers):
    message = {"topic": "t:0:0:2", "input_config": {"data_type": "uint8"}}
    return TrainingKafkaDataset(message, servers, "g", config=SECRETS)


HOLDERS = {
    "config": lambda servers: ClientConfig(servers, "g", SECRETS),
    "used config": lambda servers: (config := ClientConfig(servers, "g", SECRETS), config.consumer())[0],
    "reader": reader,
    "planned reader": lambda servers: (pipe := reader(servers), pipe.plan())[0],
    "chain": lambda servers: reader(servers).decode_bytes("uint8").reshape_arrays("1").transform_samples(),
    "dataset": dataset,
    "sink": lambda servers: KafkaSink("t", servers, config=SECRETS),
    "dead letter topic": lambda servers: DeadLetterTopic("letters", servers, config=SECRETS),
}


def attributes(item):
    """The item, and whatever hangs on it that has attributes."""
    found, todo = {}, [item]
    while todo:
        here = todo.pop()
        if id(here) not in found and hasattr(here, "__dict__"):
            found[id(here)] = here
            todo += vars(here).values()
    return list(found.values())


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_whatever_holds_a_config_shows_no_value(make, embedded):
    embedded.fill("t", [(b"a", None), (b"b", None)])
    held = make(embedded.bootstrap_servers)

    shown = [show(item) for item in attributes(held) for show in (repr, str, "{}".format)]
    shown += [repr(vars(item)) for item in attributes(held)]
    shown += [json.dumps(vars(item), default=repr, skipkeys=True) for item in attributes(held)]

    assert len(shown) >= 5
    assert not [text for text in shown if CANARY in text]


@pytest.mark.parametrize("name", sorted(set(HOLDERS) - {"sink"}))  # a sink is not pickled at all
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_whatever_holds_a_config_is_pickled_without_its_values(name, protocol, embedded):
    embedded.fill("t", [(b"a", None), (b"b", None)])

    assert CANARY.encode() not in pickle.dumps(HOLDERS[name](embedded.bootstrap_servers), protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_reads_like_the_original_and_shows_as_little(duplicate, embedded):
    embedded.fill("t", [(b"a", None), (b"b", None)])
    again = duplicate(reader(embedded.bootstrap_servers))

    assert [list(batch.values) for batch in again] == [[b"a", b"b"]]
    assert CANARY not in repr(again) + repr([vars(item) for item in attributes(again)])


def spawn_pickle(item):
    """What multiprocessing writes for a process that it is starting."""
    context.set_spawning_popen(object())
    try:
        return bytes(ForkingPickler.dumps(item))
    finally:
        context.set_spawning_popen(None)


def test_a_typed_value_travels_to_a_process_that_is_being_started_and_a_provider_does_not(monkeypatch):
    monkeypatch.setenv(VARIABLE, CANARY)

    assert CANARY.encode() in spawn_pickle(reader("b:9092", sasl_password=CANARY))
    for provider in (FromEnvironment(VARIABLE), fetch_canary):
        pipe = reader("b:9092", sasl_password=provider)
        pipe._client.consumer()  # fetched, and still not kept
        assert CANARY.encode() not in spawn_pickle(pipe) + pickle.dumps(pipe)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_finds_the_environment_variable_itself(start_method, monkeypatch, embedded):
    monkeypatch.setenv(VARIABLE, CANARY)
    embedded.fill("t", [(b"a", None), (b"b", None)])
    pipe = reader(embedded.bootstrap_servers, sasl_password=FromEnvironment(VARIABLE))
    samples = pipe.decode_bytes("uint8").transform_samples()
    loader = DataLoader(samples, num_workers=1, batch_size=None, multiprocessing_context=start_method)

    assert [int(value) for value in loader] == [97, 98]


def test_a_worker_without_the_variable_says_so_with_class_and_names(monkeypatch, embedded):
    monkeypatch.setenv(VARIABLE, CANARY)
    embedded.fill("t", [(b"a", None), (b"b", None)])
    pipe = reader(embedded.bootstrap_servers, sasl_password=FromEnvironment(VARIABLE))
    pipe.plan()
    monkeypatch.delenv(VARIABLE)
    loader = DataLoader(pipe, num_workers=1, batch_size=None, multiprocessing_context="fork")

    with pytest.raises(
        ConfigError, match=rf"sasl\.password has no value: the environment variable {VARIABLE} is not set"
    ):
        list(loader)


@pytest.mark.parametrize(("value", "state"), [(None, "not set"), ("", "empty")])
def test_a_missing_or_empty_variable_is_named(value, state, monkeypatch):
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(ConfigError, match=f"the environment variable {VARIABLE} is {state}"):
        FromEnvironment(VARIABLE)()


def test_a_variable_is_read_each_time_a_client_is_made(monkeypatch):
    config = ClientConfig("b:9092", "g", {"sasl.password": FromEnvironment(VARIABLE)})
    monkeypatch.setenv(VARIABLE, "first")
    first = config.consumer()["sasl.password"]
    monkeypatch.setenv(VARIABLE, "second")

    assert (first, config.admin()["sasl.password"]) == ("first", "second")
    assert config.scrub("first, then second") == "***, then ***"


def test_a_provider_that_fails_is_named_by_its_property_and_class_and_its_text_goes_nowhere():
    with pytest.raises(
        ConfigError, match=r"property sasl\.password has no value: its callable raised RuntimeError"
    ) as caught:
        fetch("sasl.password", FailingProvider())

    assert CANARY not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("show", [repr, str, lambda item: json.dumps(item, default=repr), "{}".format])
def test_hidden_values_show_their_names_only(show):
    assert "<sasl.password; values hidden>" in show(HiddenValues({"sasl.password": CANARY}))


def test_hidden_values_are_nothing_for_vars():
    with pytest.raises(TypeError, match="must have __dict__ attribute"):
        vars(HiddenValues({"sasl.password": CANARY}))


SECRET = 'pä"ss/w+rd&=?'  # spelt differently by all


def in_base64(text, encode=base64.b64encode):
    return encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"user={SECRET};", "user=***;"),
        (json.dumps({"password": SECRET}), '{"password": "***"}'),
        (urllib.parse.quote(SECRET), "***"),
        (urllib.parse.quote(SECRET, safe=""), "***"),
        (urllib.parse.urlencode({"client_secret": f"{SECRET} ."}), "client_secret=***+."),
        (in_base64(SECRET), "***8="),
        (in_base64(f"\0reader\0{SECRET}"), "AHJlYWRlcgB***w=="),  # what SASL PLAIN sends
        (in_base64(f"id:{SECRET}"), "aWQ6***8="),
        (in_base64(f"{SECRET}:x"), "***86eA=="),
        (in_base64(f"a{SECRET}", base64.urlsafe_b64encode), "YX***"),
    ],
)
def test_a_secret_is_masked_in_every_spelling(text, masked):
    assert Mask({"sasl.password": SECRET}).scrub(text) == masked


def test_spellings_that_begin_alike_are_each_masked_to_their_end():
    secret = "sixteen letters, then / and ? again"
    text = (
        f"{urllib.parse.quote(secret)} {urllib.parse.quote(secret, safe='')} {urllib.parse.quote_plus(secret)} {secret}"
    )

    assert Mask({"sasl.password": secret}).scrub(text) == "*** *** *** ***"


def test_what_the_client_cuts_off_is_masked_too():
    secret = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 40
    mask = Mask({"security.protocol": secret})

    assert mask.scrub(f'Invalid value "{secret[:200]}') == 'Invalid value "***'
    assert mask.scrub(f"before {secret[:100]}! after {secret}") == "before ***! after ***"


def test_a_text_that_is_no_known_word_is_masked_wherever_the_client_repeats_it():
    mask = Mask({"sasl.mechanism": "hunter2-hunter2", "security.protocol": "SASL_SSL"})

    assert (
        mask.scrub("Unsupported SASL mechanism: hunter2-hunter2 for SASL_SSL")
        == "Unsupported SASL mechanism: *** for SASL_SSL"
    )


def test_a_short_secret_is_masked_in_quotes_where_masking_it_everywhere_would_leave_no_text():
    assert Mask({"sasl.password": "ab"}).scrub('"ab" is about "a"') == '"***" is about "a"'
