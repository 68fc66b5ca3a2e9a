import pytest

from kafkapipes import ConfigError
from kafkapipes.kafka.addresses import is_loopback, joined_servers


@pytest.mark.parametrize(
    ("servers", "joined"),
    [
        ("b:9092", "b:9092"), ("b", "b"), (" b:1 , c:65535", "b:1,c:65535"), (["a:1", " b:2"], "a:1,b:2"),
        (("a:1", "b:2,c:3"), "a:1,b:2,c:3"), ("my_broker-1.example.org:9093", "my_broker-1.example.org:9093"),
        ("[::1]:9092", "[::1]:9092"), ("[fe80::1%eth0]:9092", "[fe80::1%eth0]:9092"),
        ("10.0.0.1:9092", "10.0.0.1:9092"),
    ],
)  # fmt: skip
def test_addresses_of_every_kind_are_joined_as_the_client_wants_them(servers, joined):
    assert joined_servers(servers) == joined


@pytest.mark.parametrize("servers", ["reader:hunter2@b:9092", ["b:9092", "SASL_SSL://hunter2"], "b:9092/hunter2 x"])
def test_a_wrong_address_is_not_shown(servers):
    with pytest.raises(ConfigError, match="bootstrap_servers") as caught:
        joined_servers(servers)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("server", ["localhost:9092", "LOCALHOST", "127.0.0.1:1", "127.8.9.1", "[::1]:9092"])
def test_this_machine_is_known_by_its_addresses(server):
    assert is_loopback(server)


@pytest.mark.parametrize("server", ["10.0.0.1:9092", "0.0.0.0:1", "broker", "[::2]:9092", "localhost.example.org:1"])
def test_another_machine_is_none_of_this(server):
    assert not is_loopback(server)
