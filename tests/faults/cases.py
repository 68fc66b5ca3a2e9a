"""The cases of the scorecard: what can go wrong between a log and a training set. One number, one title.

A case is covered by the tests marked with its number, or stands in NOT_COVERED with the reason.
PARTLY says what is left of the covered ones.
"""

CASES = {
    1: "compacted gaps, also at the start and end of a range",
    2: "range end on a commit or abort marker",
    3: "aborted transaction inside the range",
    4: "open transaction: last stable offset < end <= high watermark",
    5: "start between the last stable offset and the high watermark",
    6: "end above the high watermark",
    7: "start above the high watermark",
    8: "start below the log start (retention, DeleteRecords)",
    9: "retention overtakes a slow reader",
    10: "topic deleted while it is read",
    11: "topic deleted and made anew while it is read",
    12: "topic or partition does not exist",
    13: "partitions added while it is read",
    14: "broker killed (kill -9) and restarted",
    15: "leader fails over, three brokers",
    16: "broker hangs, or the connection is a black hole",
    17: "broker unreachable or unresolvable at the start",
    18: "connections reset at random",
    19: "slow link, throttled, fragmented frames",
    20: "wrong SASL password",
    21: "SASL mechanism or security protocol mismatch",
    22: "TLS: wrong CA, expired certificate, wrong host name",
    23: "ACL: no READ on the topic",
    24: "ACL: READ on the topic, none on the group",
    25: "ACL revoked while it is read",
    26: "record larger than the fetch sizes",
    27: "response larger than receive.message.max.bytes",
    28: "corrupt batch, on disk or on the wire",
    29: "compressed payload that does not unpack, unknown codec",
    30: "unknown magic byte",
    31: "log truncated under a live reader",
    32: "log truncated between checkpoint and resume",
    33: "tombstones, null and empty keys and values, repeated headers",
    34: "poison record: wrong size, type or UTF-8",
    35: "error message used as data",
    36: "consumer that exists before a fork",
    37: "error in a DataLoader worker",
    38: "SIGINT and SIGTERM",
    39: "slow trainer, longer than max.poll.interval.ms",
    40: "group mode: rebalance, zombie, failed commit",
    41: "automatic commit into the named group",
    42: "memory bound with many partitions",
    43: "decompression bomb",
    44: "ranges by time, timestamps out of order",
    45: "clock skew",
    46: "reconnect storm",
    47: "tail latency",
    48: "checkpoint torn, old, of another range or topic",
    49: "resume with another number of workers or ranks",
    50: "sink: retries, flush timeout, full queue, kill amid a flush",
    51: "control message: bad JSON, wrong fields, absurd sizes",
    52: "schema registry down, slow, wrong",
}

NOT_COVERED = {
    52: "kafkapipes talks to no schema registry",
}

PARTLY = {
    21: "SCRAM, OAuth and Kerberos: no broker of the tests speaks them",
    40: "members of a group that rebalance: kafkapipes joins none, and leaves a group with members alone",
    51: "a control topic that is rewound, replayed or written by two: kafkapipes waits on none",
}
