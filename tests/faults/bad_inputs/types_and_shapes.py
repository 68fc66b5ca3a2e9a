"""Types and shapes, as an argument or in a control message names them."""

import numpy as np

from kafkapipes import ByteDecoder, ConfigError, Reshaper
from tests.faults.bad_inputs import BadInput

TYPE_RULE = "wanted the name of a NumPy bool or number such as 'uint8'"
SHAPE_RULE = "wanted whole numbers above 0 such as '28 28' or (28, 28), one of which may be -1"
SIZE_RULE = "wanted at most 32 dimensions and 2147483648 elements"
# What NumPy would take for Python objects, records, text or times is refused: decoding it would run pickles or guess.
TYPES = [
    ("object", "object", "'object'"),
    ("O", "O", "'O'"),
    ("|O", "|O", "'|O'"),
    ("object by class", object, "object"),
    ("void", "V8", "'V8'"),
    ("void by name", "void", "'void'"),
    ("a record", "i4,f4", "'i4,f4'"),
    ("a record by list", [("a", "i4")], "[('a', 'i4')]"),
    ("a record with an object", "i4,O", "'i4,O'"),
    ("a record type", np.dtype([("a", "O")]), "dtype"),
    ("a record by dict", {"names": ["a"], "formats": ["O"]}, "names"),
    ("characters", "U5", "'U5'"),
    ("bytes of a length", "S5", "'S5'"),
    ("bytes by their old name", "a5", "'a5'"),
    ("a date", "M8[s]", "'M8[s]'"),
    ("a duration", "m8[ms]", "'m8[ms]'"),
    ("an array type", "2i4", "'2i4'"),
    ("a matrix type", "(2,2)i4", "'(2,2)i4'"),
    ("a huge matrix type", "99999i4", "'99999i4'"),
    ("nothing", None, "None"),
    ("an empty name", "", "''"),
    ("a blank", " ", "' '"),
    ("a misspelt name", "uint7", "'uint7'"),
    ("a name with a blank", "uint8 ", "'uint8 '"),
    ("a number", 8, "8"),
    ("a truth", True, "True"),
    ("a list", ["uint8"], "['uint8']"),
    ("a very long name", "x" * 100_000, "(100002 characters)"),
    ("a huge number", 10**5000, "a int whose repr raises ValueError"),
    ("code", "__import__('os')", "__import__"),
    ("a null character", "uint8\0", r"'uint8\x00'"),
    ("half a character", "\ud800", r"'\ud800'"),
]
COUNTS = [
    ("none", 0, "0"),
    ("a negative number", -1, "-1"),
    ("a truth", True, "True"),
    ("a fraction", 1.5, "1.5"),
    ("a text", "4", "'4'"),
    ("too many", 2**31 + 1, "2147483649"),
]
SHAPES = [
    ("zero", "0", SHAPE_RULE, "'0'"),
    ("a cross", "28x28", SHAPE_RULE, "'28x28'"),
    ("commas", "28,28", SHAPE_RULE, "'28,28'"),
    ("two unknowns", "-1 -1", SHAPE_RULE, "'-1 -1'"),
    ("minus two", "-2", SHAPE_RULE, "'-2'"),
    ("minus twice", "--1", SHAPE_RULE, "'--1'"),
    ("a fraction", "1.5", SHAPE_RULE, "'1.5'"),
    ("an exponent", "1e3", SHAPE_RULE, "'1e3'"),
    ("brackets", "(2, 3)", SHAPE_RULE, "'(2, 3)'"),
    ("Arabic digits", "٣", SHAPE_RULE, "'٣'"),
    ("a newline", "2\n3", SHAPE_RULE, r"'2\n3'"),
    ("a minus in between", "2 - 3", SHAPE_RULE, "'2 - 3'"),
    ("no dimension", (), SHAPE_RULE, "()"),
    ("a truth", True, SHAPE_RULE, "True"),
    ("truths", (True, 2), SHAPE_RULE, "(True, 2)"),
    ("nested", [[2, 3]], SHAPE_RULE, "[[2, 3]]"),
    ("a dictionary", {2: 3}, SHAPE_RULE, "{2: 3}"),
    ("fractions", (1.5, 2), SHAPE_RULE, "(1.5, 2)"),
    ("texts", ("2", "3"), SHAPE_RULE, "('2', '3')"),
    ("bytes", b"2 3", SHAPE_RULE, "b'2 3'"),
    ("a NaN", float("nan"), SHAPE_RULE, "nan"),
    ("more than memory", "1000000 1000000", SIZE_RULE, "'1000000 1000000'"),
    ("more than memory with an unknown", "-1 3000000000", SIZE_RULE, "'-1 3000000000'"),
    ("a product past 64 bits", "4294967296 4294967296", SIZE_RULE, "'4294967296 4294967296'"),
    ("33 dimensions", "1 " * 33, SIZE_RULE, "'1 1 1"),
    ("a number of 5000 digits", "9" * 5000, SHAPE_RULE, "(5002 characters)"),
    ("a huge number", 10**5000, SIZE_RULE, "a int whose repr raises ValueError"),
]

TYPES_AND_SHAPES = [
    *(
        BadInput(
            f"type: {name}", lambda item=item: ByteDecoder([], item), ConfigError, ("the type is", TYPE_RULE, found)
        )
        for name, item, found in TYPES
    ),
    *(
        BadInput(
            f"elements: {name}",
            lambda item=item: ByteDecoder([], "uint8", data_elements=item),
            ConfigError,
            (f"the number of elements of a sample is {found}, wanted a whole number from 1 to 2147483648",),
        )
        for name, item, found in COUNTS
    ),
    *(
        BadInput(f"shape: {name}", lambda item=item: Reshaper([], item), ConfigError, ("the shape is", rule, found))
        for name, item, rule, found in SHAPES
    ),
]
