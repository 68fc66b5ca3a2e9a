"""Control messages, as dictionaries, as JSON and as the topic's raw bytes."""

import json
import pickle

from kafkapipes import ControlMessage, ControlMessageError
from tests.faults.bad_inputs import CANARY, MALICIOUS, BadInput

RAW = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "28 28", "label_reshape": ""}
GOOD = {"topic": "t:0:0:70000", "input_config": RAW}
JSON_RULE = "wanted what JSON holds, in at most 16 levels"


def nested(levels):
    found = 1
    for _ in range(levels):
        found = [found]
    return found


endless: dict = {}
endless["again"] = endless

FIELDS = [
    ("topic of the wrong form", {"topic": "t"}, "topic:partition:start:end"),
    ("topic reversed", {"topic": "t:0:5:1"}, "start 5 lies behind end 1"),
    ("topic a number", {"topic": 7}, "a range text is a str, found int 7"),
    ("topic a list", {"topic": ["t:0:0:1"]}, "a range text is a str, found list"),
    ("topic of too many ranges", {"topic": "t:0:0:1," * 120_000}, "wanted at most 100000 ranges"),
    ("topic of an online sink", {"topic": "mnist"}, "has 1 field(s) between colons, wanted 4"),
    ("format AVRO", {"input_format": "AVRO"}, "input_format 'AVRO'; supported: RAW"),
    ("format in small letters", {"input_format": "raw"}, "input_format 'raw'; supported: RAW"),
    ("format a list", {"input_format": ["RAW"]}, "input_format ['RAW']; supported: RAW"),
    ("format pickle", {"input_format": "PICKLE"}, "input_format 'PICKLE'; supported: RAW"),
    ("config a number", {"input_config": 5}, "input_config is 5, wanted a dictionary"),
    ("config a list", {"input_config": [RAW]}, "wanted a dictionary of the format's fields"),
    ("config half a JSON", {"input_config": "{"}, "found text that is not"),
    ("config a JSON list", {"input_config": "[]"}, "wanted a JSON object, found list"),
    ("config empty", {"input_config": {}}, "input_config has no data_type"),
    ("config with an unknown field", {"input_config": {**RAW, "datatype": "u1"}}, "'datatype'; RAW knows data_type"),
    ("config with a number for a field", {"input_config": {**RAW, 5: 6}}, "input_config holds {'data_type'"),
    ("data_type unknown", {"input_config": {**RAW, "data_type": "uint7"}}, "the type is 'uint7', wanted the name of"),
    ("data_type object", {"input_config": {**RAW, "data_type": "object"}}, "the type is 'object', wanted the name of"),
    ("data_type a record", {"input_config": {**RAW, "data_type": "i4,O"}}, "the type is 'i4,O', wanted the name of"),
    ("data_type a number", {"input_config": {**RAW, "data_type": 8}}, "data_type is 8"),
    ("data_type a list", {"input_config": {**RAW, "data_type": ["uint8"]}}, "data_type is ['uint8']"),
    ("label_type a date", {"input_config": {**RAW, "label_type": "M8[s]"}}, "the type is 'M8[s]', wanted the name of"),
    ("label_type a number", {"input_config": {**RAW, "label_type": 1}}, "label_type 1, wanted names"),
    ("data_reshape with a cross", {"input_config": {**RAW, "data_reshape": "28x28"}}, "the shape is '28x28', wanted"),
    ("data_reshape absurd", {"input_config": {**RAW, "data_reshape": "99999 99999"}}, "wanted at most 32 dimensions"),
    ("data_reshape a dictionary", {"input_config": {**RAW, "data_reshape": {"h": 28}}}, "the shape is {'h': 28}"),
    ("label_reshape zero", {"input_config": {**RAW, "label_reshape": "0"}}, "the shape is '0', wanted whole numbers"),
    ("a shape for strings", {"input_config": {**RAW, "data_type": "string"}}, "strings and bytes have no shape"),
    ("validation_rate above 1", {"validation_rate": 1.5}, "validation_rate is 1.5, wanted a number from 0 up to"),
    ("validation_rate 1", {"validation_rate": 1}, "validation_rate is 1, wanted a number from 0 up to, and without, 1"),
    ("validation_rate negative", {"validation_rate": -0.1}, "validation_rate is -0.1"),
    ("test_rate a text", {"test_rate": "0.1"}, "test_rate is '0.1', wanted a number"),
    ("test_rate a truth", {"test_rate": True}, "test_rate is True, wanted a number"),
    ("test_rate NaN", {"test_rate": float("nan")}, "test_rate is nan, wanted a number"),
    ("test_rate huge", {"test_rate": 10**5000}, "test_rate is a int whose repr raises ValueError, wanted a number"),
    ("total_msg negative", {"total_msg": -1}, "total_msg is -1, wanted a whole number of records"),
    ("total_msg a fraction", {"total_msg": 1.5}, "total_msg is 1.5, wanted a whole number"),
    ("total_msg a truth", {"total_msg": True}, "total_msg is True, wanted a whole number"),
    ("total_msg past 64 bits", {"total_msg": 2**63}, "total_msg is 9223372036854775808, wanted a whole number"),
    ("incremental a text", {"incremental": "no"}, "incremental is 'no', wanted true or false"),
    ("incremental a number", {"incremental": 0}, "incremental is 0, wanted true or false"),
    ("description a number", {"description": 5}, "description is 5, wanted a text"),
    ("description a list", {"description": ["Mnist"]}, "description is ['Mnist'], wanted a text"),
    ("description half a character", {"description": "\ud800"}, rf"description holds '\ud800', {JSON_RULE}"),
    ("unsupervised_topic a number", {"unsupervised_topic": 5}, "unsupervised_topic is 5, wanted a text, or null"),
    ("unsupervised_topic a list", {"unsupervised_topic": ["t"]}, "unsupervised_topic is ['t'], wanted a text"),
    ("dataset_restrictions an object", {"dataset_restrictions": object()}, "object object at 0x"),
    ("dataset_restrictions with a number for a name", {"dataset_restrictions": {1: 2}}, f"holds {{1: 2}}, {JSON_RULE}"),
    ("dataset_restrictions infinite", {"dataset_restrictions": {"x": float("inf")}}, f"holds inf, {JSON_RULE}"),
    ("dataset_restrictions within itself", {"dataset_restrictions": endless}, JSON_RULE),
    ("dataset_restrictions bytes", {"dataset_restrictions": b"{}"}, f"holds b'{{}}', {JSON_RULE}"),
    ("deployment past 64 bits", {"deployment": 2**64}, f"deployment holds 18446744073709551616, {JSON_RULE}"),
    ("deployment 40 levels deep", {"deployment": nested(40)}, "deployment holds [[["),
    ("time a set", {"time": {1}}, f"time holds {{1}}, {JSON_RULE}"),
    # A control message says where data lies. How to reach it is the operator's to say, and nobody else's.
    ("client properties", {"config": {"sasl.password": CANARY}}, "unknown fields ['config']; known: topic"),
    ("an address", {"bootstrap_servers": f"evil:9092/{CANARY}"}, "unknown fields ['bootstrap_servers']; known: topic"),
    ("a property", {"plugin.library.paths": CANARY}, "unknown fields ['plugin.library.paths']; known: topic"),
    ("a group", {"group_id": CANARY}, "unknown fields ['group_id']; known: topic"),
    ("a policy", {"on_error": "skip"}, "unknown fields ['on_error']; known: topic"),
    ("a transform", {"transform": "os.system"}, "unknown fields ['transform']; known: topic"),
    ("an unknown field", {"bogus": 1}, "unknown fields ['bogus']; known: topic"),
    (
        "a property in the config",
        {"input_config": {**RAW, "ssl.engine.location": CANARY}},
        "'ssl.engine.location'; RAW",
    ),
    ("a hundred thousand unknown fields", {f"x{n}": n for n in range(100_000)}, "characters); known: topic"),
]
MESSAGES = [
    ("nothing", {}, "no topic and no input_config"),
    ("no config", {"topic": "t:0:0:1"}, "has no input_config"),
    ("no topic", {"input_config": RAW}, "has no topic"),
    ("null for a topic", {**GOOD, "topic": None}, "has no topic"),
    ("None", None, "wanted a control message as a dictionary, found NoneType"),
    ("a list", [GOOD], "wanted a control message as a dictionary, found list"),
    ("a text", "t:0:0:1", "wanted a control message as a dictionary, found str"),
    ("a number", 7, "wanted a control message as a dictionary, found int"),
]
NOT_JSON = "wanted a control message as JSON, found text that is not"
JSON = [
    ("empty", "", NOT_JSON),
    ("empty bytes", b"", NOT_JSON),
    ("a word", "nonsense", NOT_JSON),
    ("a range text", "t:0:0:1", NOT_JSON),
    ("cut off", json.dumps(GOOD)[:-1], NOT_JSON),
    ("with more behind it", json.dumps(GOOD) + "{}", NOT_JSON),
    ("with a comma too many", '{"topic": "t:0:0:1",}', NOT_JSON),
    ("in single quotes", str(GOOD), NOT_JSON),
    ("with a comment", "// hello\n" + json.dumps(GOOD), NOT_JSON),
    ("with a raw newline in a text", '{"topic": "t:0:\n0:1"}', NOT_JSON),
    ("with a byte order mark", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), NOT_JSON),
    ("with a number of 5000 digits", '{"total_msg": ' + "9" * 5000 + "}", NOT_JSON),
    ("in UTF-16", json.dumps(GOOD).encode("utf-16"), "in UTF-8, found bytes that are not"),
    ("in Latin-1", '{"topic": "\xe4"}'.encode("latin-1"), "in UTF-8, found bytes that are not"),
    ("gzipped", b"\x1f\x8b\x08\x00" + bytes(20), "in UTF-8, found bytes that are not"),
    ("a pickle", MALICIOUS, "in UTF-8, found bytes that are not"),
    ("a pickle of old", pickle.dumps(GOOD, 0), NOT_JSON),
    ("a list", "[1]", "wanted a JSON object, found list"),
    ("a number", "7", "wanted a JSON object, found int"),
    ("null", "null", "wanted a JSON object, found NoneType"),
    ("a JSON text", '"t:0:0:1"', "wanted a JSON object, found str"),
    (
        "a field twice",
        '{"topic": "t:0:0:1", "topic": "u:0:0:1"}',
        "wanted each field once, found ['topic'] more than once",
    ),
    (
        "a field twice inside",
        '{"topic": "t:0:0:1", "input_config": {"data_type": "u1", "data_type": "O"}}',
        "wanted each field once, found ['data_type'] more than once",
    ),
    ("a field a hundred thousand times", "{" + '"a":1,' * 100_000 + '"a":1}', "found ['a'] more than once"),
    ("NaN", '{"test_rate": NaN}', "wanted JSON, found NaN"),
    ("Infinity", '{"total_msg": Infinity}', "found Infinity"),
    ("minus Infinity", '{"total_msg": -Infinity}', "wanted JSON, found -Infinity"),
    (
        "a number past every float",
        json.dumps({**GOOD, "time": 0}).replace(": 0}", ": 1e999}"),
        "time holds inf, wanted what JSON",
    ),
    ("half a character", json.dumps({**GOOD, "description": "\ud800"}), "description holds"),
    ("17 levels deep", "[" * 17 + "]" * 17, "wanted JSON of at most 16 levels, found 17"),
    ("a million levels deep", "[" * 1_000_000, "wanted JSON of at most 16 levels, found 1000000"),
    ("objects half a million levels deep", '{"":' * 250_000, "wanted JSON of at most 16 levels, found 250000"),
    ("a million escaped quotes", '"' + '\\"' * 499_000, NOT_JSON),
    ("a hundred thousand texts that do not end", '"\n' * 400_000, NOT_JSON),
    ("more than a megabyte", " " * 1_000_001, "wanted at most 1000000 bytes of JSON, found 1000001"),
    ("no text", None, "wanted a control message as JSON in a str or bytes, found NoneType"),
    ("a number object", 5, "wanted a control message as JSON in a str or bytes, found int"),
    ("a dictionary", GOOD, "wanted a control message as JSON in a str or bytes, found dict"),
    (
        "a config with properties",
        json.dumps({**GOOD, "config": {"sasl.password": CANARY}}),
        "unknown fields ['config']",
    ),
]

CONTROL_MESSAGES = [
    *(
        BadInput(
            f"control message: {name}", lambda item=item: ControlMessage.from_dict(item), ControlMessageError, (text,)
        )
        for name, item, text in [*MESSAGES, *((name, {**GOOD, **fields}, text) for name, fields, text in FIELDS)]
    ),
    *(
        BadInput(
            f"control JSON: {name}", lambda item=item: ControlMessage.from_json(item), ControlMessageError, (text,)
        )
        for name, item, text in JSON
    ),
]
