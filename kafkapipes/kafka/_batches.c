/* Record batches, as a broker answers a Fetch with them, into columns.
 *
 * Pure functions over buffers: `parse` finds the records, `gather` copies their bytes; and `receive` fills a buffer. The format is Kafka's own
 * ("Record Batch" in the protocol guide, version 2 of the message format). What is not plain, such as a compressed batch,
 * is left to the caller, who is told where it begins.
 *
 * - Whatever the bytes and the arguments, nothing is read or written outside the buffers that came with them.
 * - No object is kept, and the GIL is released while bytes are looked at.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    LENGTH_AT = 8, /* of a batch: where the size of what is behind this field stands, and so on */
    EPOCH_AT = 12,
    MAGIC_AT = 16,
    CHECKSUM_AT = 17,
    ATTRIBUTES_AT = 21,
    LAST_DELTA_AT = 23,
    FIRST_TIMESTAMP_AT = 27,
    LAST_TIMESTAMP_AT = 35,
    COUNT_AT = 57,
    RECORDS_AT = 61,
    MAGIC = 2,
    COMPRESSION = 0x07, /* of the attributes */
    APPEND_TIME = 0x08,
    CONTROL = 0x20,
    NULL_LENGTH = -1,
};

/* Why `parse` stopped. */
enum { ALL_ROWS, ALL_BYTES, NOT_PLAIN, DAMAGED };

/* Where `parse` goes on: the batch that begins at `batch`; in it, when `left` records are still to come, at `record`. */
typedef struct {
    Py_ssize_t batch, record;
    int64_t left, offset; /* offset: the first that is wanted */
    int32_t epoch;        /* of the last batch that was begun */
} Cursor;

typedef struct {
    int64_t *offsets, *key_starts, *key_lengths, *value_starts, *value_lengths, *timestamps; /* timestamps: or NULL */
    int32_t *epochs;
    Py_ssize_t room, rows;
} Columns;

static uint64_t big(const uint8_t *at, int size) {
    uint64_t number = 0;
    for (int i = 0; i < size; i++)
        number = number << 8 | at[i];
    return number;
}

static int16_t i16(const uint8_t *at) { return (int16_t)big(at, 2); }
static int32_t i32(const uint8_t *at) { return (int32_t)big(at, 4); }
static int64_t i64(const uint8_t *at) { return (int64_t)big(at, 8); }

/* CRC-32C (Castagnoli), reflected; RFC 3720, appendix B.4. */
static uint32_t table[8][256];

static void fill_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0x82f63b78 : 0);
        table[0][byte] = sum;
    }
    for (int further = 1; further < 8; further++)
        for (int byte = 0; byte < 256; byte++)
            table[further][byte] = table[further - 1][byte] >> 8 ^ table[0][table[further - 1][byte] & 0xff];
}

static uint32_t checksum_by_table(const uint8_t *at, size_t size) {
    uint32_t sum = ~0u;
    for (; size >= 8; at += 8, size -= 8) {
        uint32_t low = sum ^ (at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24);
        sum = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^ table[4][low >> 24] ^
              table[3][at[4]] ^ table[2][at[5]] ^ table[1][at[6]] ^ table[0][at[7]];
    }
    while (size--)
        sum = sum >> 8 ^ table[0][(sum ^ *at++) & 0xff];
    return ~sum;
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
__attribute__((target("sse4.2"))) static uint32_t checksum_by_processor(const uint8_t *at, size_t size) {
    uint64_t sum = ~0u, eight;
    for (; size >= 8; at += 8, size -= 8) {
        memcpy(&eight, at, 8);
        sum = __builtin_ia32_crc32di(sum, eight);
    }
    while (size--)
        sum = __builtin_ia32_crc32qi((uint32_t)sum, *at++);
    return ~(uint32_t)sum;
}

static uint32_t checksum(const uint8_t *at, size_t size) {
    return __builtin_cpu_supports("sse4.2") ? checksum_by_processor(at, size) : checksum_by_table(at, size);
}
#else
static uint32_t checksum(const uint8_t *at, size_t size) { return checksum_by_table(at, size); }
#endif

/* The next number, zigzag in groups of seven bits; false where it does not end in time. */
static inline bool varint(const uint8_t **at, const uint8_t *end, int64_t *number) {
    uint64_t bits = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        bits |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *number = (int64_t)(bits >> 1 ^ (0 - (bits & 1)));
            return true;
        }
    }
    return false;
}

/* A byte string with its length before it; -1 is a null. */
static inline bool string(const uint8_t **at, const uint8_t *end, const uint8_t **start, int64_t *length) {
    if (!varint(at, end, length) || *length < NULL_LENGTH || *length > end - *at)
        return false;
    *start = *at;
    *at += *length > 0 ? *length : 0;
    return true;
}

/* One record of the batch; false where it is none. */
static inline bool record(
    const uint8_t *data, const uint8_t *batch, const uint8_t **at, const uint8_t *end, Cursor *cursor, Columns *columns) {
    int64_t size, later, delta, key_length, value_length;
    const uint8_t *key, *value;
    if (!varint(at, end, &size) || size < 1 || size > end - *at)
        return false;
    const uint8_t *field = *at + 1, *behind = *at + size; /* one byte of attributes, none in use */
    if (!varint(&field, behind, &later) || !varint(&field, behind, &delta) || delta < 0 || delta > INT32_MAX ||
        !string(&field, behind, &key, &key_length) || !string(&field, behind, &value, &value_length))
        return false;
    *at = behind;
    int64_t offset = i64(batch) + delta;
    if (offset < cursor->offset)
        return true;
    Py_ssize_t row = columns->rows++;
    columns->offsets[row] = offset;
    columns->epochs[row] = i32(batch + EPOCH_AT);
    columns->key_starts[row] = key - data;
    columns->key_lengths[row] = key_length;
    columns->value_starts[row] = value - data;
    columns->value_lengths[row] = value_length;
    if (columns->timestamps)
        columns->timestamps[row] = i16(batch + ATTRIBUTES_AT) & APPEND_TIME
                                       ? i64(batch + LAST_TIMESTAMP_AT)
                                       : (int64_t)((uint64_t)i64(batch + FIRST_TIMESTAMP_AT) + (uint64_t)later);
    cursor->offset = offset + 1;
    return true;
}

/* Whether a batch is plain, so that its records can be taken; its checksum covers all from the attributes on. */
static bool plain(const uint8_t *batch) {
    return !(i16(batch + ATTRIBUTES_AT) & COMPRESSION) && i64(batch) >= 0 && i64(batch) <= INT64_MAX - INT32_MAX - 1 &&
           i32(batch + LAST_DELTA_AT) >= 0 && i32(batch + COUNT_AT) >= 0;
}

static bool damaged(const uint8_t *batch, Py_ssize_t size) {
    return (uint32_t)big(batch + CHECKSUM_AT, 4) != checksum(batch + ATTRIBUTES_AT, (size_t)(size - ATTRIBUTES_AT));
}

static int parse_into(const uint8_t *data, Py_ssize_t size, Cursor *cursor, Columns *columns) {
    for (;;) {
        const uint8_t *batch = data + cursor->batch;
        Py_ssize_t rest = size - cursor->batch;
        if (rest < RECORDS_AT)
            return rest >= EPOCH_AT && i32(batch + LENGTH_AT) < RECORDS_AT - EPOCH_AT ? NOT_PLAIN : ALL_BYTES;
        int32_t length = i32(batch + LENGTH_AT);
        if (length < RECORDS_AT - EPOCH_AT)
            return NOT_PLAIN;
        if (length > rest - EPOCH_AT)
            return ALL_BYTES; /* its end was cut off */
        Py_ssize_t whole = (Py_ssize_t)length + EPOCH_AT;
        if (cursor->record == 0) {
            if (batch[MAGIC_AT] != MAGIC)
                return NOT_PLAIN;
            if (damaged(batch, whole))
                return DAMAGED;
            if (!plain(batch))
                return NOT_PLAIN;
            cursor->record = RECORDS_AT;
            cursor->epoch = i32(batch + EPOCH_AT);
            cursor->left = i16(batch + ATTRIBUTES_AT) & CONTROL ? 0 : i32(batch + COUNT_AT);
        }
        const uint8_t *at = batch + cursor->record, *end = batch + whole;
        for (; cursor->left; cursor->left--) {
            if (columns->rows == columns->room)
                return ALL_ROWS;
            if (!record(data, batch, &at, end, cursor, columns))
                return NOT_PLAIN;
            cursor->record = at - batch;
        }
        int64_t behind = i64(batch) + i32(batch + LAST_DELTA_AT) + 1;
        if (behind > cursor->offset)
            cursor->offset = behind;
        cursor->batch += whole;
        cursor->record = 0;
    }
}

/* data, offsets, epochs, starts and lengths of keys, those of values, timestamps */
enum { DATA, OFFSETS, EPOCHS, KEY_STARTS, KEY_LENGTHS, VALUE_STARTS, VALUE_LENGTHS, TIMESTAMPS, BUFFERS };

static bool holds(const Py_buffer *buffer, Py_ssize_t rows, size_t size) {
    return buffer->len == rows * (Py_ssize_t)size && (uintptr_t)buffer->buf % size == 0;
}

static bool fits_together(const Py_buffer *buffer, const Cursor *cursor) {
    Py_ssize_t rows = buffer[OFFSETS].len / (Py_ssize_t)sizeof(int64_t);
    bool good = holds(&buffer[EPOCHS], rows, sizeof(int32_t)) &&
                (!buffer[TIMESTAMPS].buf || holds(&buffer[TIMESTAMPS], rows, sizeof(int64_t)));
    for (int i = KEY_STARTS; i <= VALUE_LENGTHS; i++)
        good = good && holds(&buffer[i], rows, sizeof(int64_t));
    if (!good || !holds(&buffer[OFFSETS], rows, sizeof(int64_t))) {
        PyErr_SetString(PyExc_ValueError, "wanted int64 arrays, and an int32 array of epochs, of one length");
        return false;
    }
    Py_ssize_t size = buffer[DATA].len;
    if (cursor->batch < 0 || cursor->batch > size || cursor->record < 0 || cursor->left < 0 ||
        (cursor->record && (cursor->record < RECORDS_AT || size - cursor->batch < RECORDS_AT ||
                            cursor->record > (int64_t)i32((uint8_t *)buffer[DATA].buf + cursor->batch + LENGTH_AT) + EPOCH_AT))) {
        PyErr_SetString(PyExc_ValueError, "wanted a cursor as an earlier call gave it");
        return false;
    }
    return true;
}

static PyObject *parse(PyObject *module, PyObject *args) {
    Py_buffer buffer[BUFFERS] = {{0}};
    PyObject *timestamps, *found = NULL;
    Cursor cursor;
    long long left, offset;
    if (!PyArg_ParseTuple(
            args, "y*(nnLLi)w*w*w*w*w*w*O:parse", &buffer[DATA], &cursor.batch, &cursor.record, &left, &offset,
            &cursor.epoch, &buffer[OFFSETS], &buffer[EPOCHS], &buffer[KEY_STARTS], &buffer[KEY_LENGTHS], &buffer[VALUE_STARTS],
            &buffer[VALUE_LENGTHS], &timestamps))
        return NULL;
    cursor.left = left;
    cursor.offset = offset;
    if ((timestamps == Py_None || PyObject_GetBuffer(timestamps, &buffer[TIMESTAMPS], PyBUF_WRITABLE) == 0) &&
        fits_together(buffer, &cursor)) {
        Columns columns = {
            .offsets = buffer[OFFSETS].buf,
            .epochs = buffer[EPOCHS].buf,
            .key_starts = buffer[KEY_STARTS].buf,
            .key_lengths = buffer[KEY_LENGTHS].buf,
            .value_starts = buffer[VALUE_STARTS].buf,
            .value_lengths = buffer[VALUE_LENGTHS].buf,
            .timestamps = buffer[TIMESTAMPS].buf,
            .room = buffer[OFFSETS].len / (Py_ssize_t)sizeof(int64_t),
        };
        int stopped;
        Py_BEGIN_ALLOW_THREADS
        stopped = parse_into(buffer[DATA].buf, buffer[DATA].len, &cursor, &columns);
        Py_END_ALLOW_THREADS
        found = Py_BuildValue(
            "(n(nnLLi)i)", columns.rows, cursor.batch, cursor.record, (long long)cursor.left, (long long)cursor.offset,
            (int)cursor.epoch, stopped);
    }
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(&buffer[i]); /* which is nothing where there is none */
    return found;
}

/* The offset behind the last batch that is whole; `offset` where there is none. */
static PyObject *next_offset(PyObject *module, PyObject *args) {
    Py_buffer data;
    long long offset;
    if (!PyArg_ParseTuple(args, "y*L:next_offset", &data, &offset))
        return NULL;
    const uint8_t *batch = data.buf;
    Py_ssize_t rest = data.len;
    while (rest >= RECORDS_AT) {
        int32_t length = i32(batch + LENGTH_AT), last = i32(batch + LAST_DELTA_AT);
        int64_t first = i64(batch);
        if (length < RECORDS_AT - EPOCH_AT || length > rest - EPOCH_AT || first < 0 || last < 0 ||
            first > INT64_MAX - INT32_MAX - 1)
            break;
        if (first + last >= offset)
            offset = first + last + 1;
        batch += (Py_ssize_t)length + EPOCH_AT;
        rest -= (Py_ssize_t)length + EPOCH_AT;
    }
    PyBuffer_Release(&data);
    return PyLong_FromLongLong(offset);
}

static bool gather_into(const Py_buffer *data, const int64_t *starts, const int64_t *lengths, Py_ssize_t rows, Py_buffer *out) {
    char *at = out->buf;
    Py_ssize_t left = out->len;
    for (Py_ssize_t row = 0; row < rows; row++) {
        int64_t start = starts[row], length = lengths[row] < 0 ? 0 : lengths[row];
        if (start < 0 || start > data->len || length > data->len - start || length > left)
            return false;
        memcpy(at, (const char *)data->buf + start, (size_t)length);
        at += length;
        left -= length;
    }
    return left == 0;
}

static PyObject *gather(PyObject *module, PyObject *args) {
    Py_buffer data, starts, lengths, out;
    if (!PyArg_ParseTuple(args, "y*y*y*w*:gather", &data, &starts, &lengths, &out))
        return NULL;
    Py_ssize_t rows = lengths.len / (Py_ssize_t)sizeof(int64_t);
    bool good = holds(&starts, rows, sizeof(int64_t)) && holds(&lengths, rows, sizeof(int64_t));
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        good = gather_into(&data, starts.buf, lengths.buf, rows, &out);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&out);
    if (good)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "wanted starts and lengths within the data, and a buffer that they fill exactly");
    return NULL;
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Receive until the buffer is full, the time has passed or a signal came: how much of it is filled then; -1: an error. */
static Py_ssize_t receive_into(int connection, char *buffer, Py_ssize_t filled, Py_ssize_t size, int timeout_ms) {
    int64_t deadline = milliseconds() + timeout_ms;
    while (filled < size) {
        ssize_t got = recv(connection, buffer + filled, (size_t)(size - filled), MSG_DONTWAIT);
        if (got > 0) {
            filled += got;
            continue;
        }
        if (got == 0)
            errno = ECONNRESET; /* hung up */
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            return -1;
        int64_t left = deadline - milliseconds();
        struct pollfd readable = {.fd = connection, .events = POLLIN};
        if (left <= 0 || poll(&readable, 1, (int)left) <= 0)
            return filled; /* a signal too: whoever called looks after it */
    }
    return filled;
}

static PyObject *receive(PyObject *module, PyObject *args) {
    int connection, timeout_ms;
    Py_buffer buffer;
    Py_ssize_t filled, size;
    if (!PyArg_ParseTuple(args, "iw*nni:receive", &connection, &buffer, &filled, &size, &timeout_ms))
        return NULL;
    if (filled < 0 || size < filled || size > buffer.len) {
        PyErr_SetString(PyExc_ValueError, "wanted to fill a part of the buffer");
        filled = -1;
    } else {
        Py_BEGIN_ALLOW_THREADS
        filled = receive_into(connection, buffer.buf, filled, size, timeout_ms);
        Py_END_ALLOW_THREADS
        if (filled < 0)
            PyErr_SetFromErrno(PyExc_OSError);
    }
    PyBuffer_Release(&buffer);
    return filled < 0 ? NULL : PyLong_FromSsize_t(filled);
}

static PyObject *checksum_of(PyObject *module, PyObject *args) {
    Py_buffer data;
    int by_table = 0;
    if (!PyArg_ParseTuple(args, "y*|p:checksum", &data, &by_table))
        return NULL;
    uint32_t sum = (by_table ? checksum_by_table : checksum)(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(sum);
}

static PyMethodDef functions[] = {
    {"parse", parse, METH_VARARGS,
     "parse(data, cursor, offsets, epochs, key_starts, key_lengths, value_starts, value_lengths, timestamps or None)\n"
     "    -> (rows, cursor, stopped)\n\n"
     "The next records, as many as the arrays hold: where their bytes begin in `data`, and how many they are, -1 for a\n"
     "null. A cursor is (byte of a batch, byte of a record in it or 0, records left in it, first offset wanted, leader\n"
     "epoch of the last batch): at first (0, 0, 0, offset, -1). `stopped` is ALL_ROWS, ALL_BYTES, or where a batch begins\n"
     "DAMAGED, as its checksum does not fit, or NOT_PLAIN, as it is not for this parser."},
    {"next_offset", next_offset, METH_VARARGS, "next_offset(data, offset): the one behind the last batch that is whole."},
    {"gather", gather, METH_VARARGS, "gather(data, starts, lengths, out): bytes end to end; they fill `out` exactly."},
    {"receive", receive, METH_VARARGS,
     "receive(connection, buffer, filled, size, timeout_ms) -> filled\n\n"
     "From a socket's descriptor until so many bytes of the buffer are filled, the time has passed or a signal came;\n"
     "OSError where it was closed or broke."},
    {"checksum", checksum_of, METH_VARARGS, "checksum(data, by_table=False): its CRC-32C, by the processor or by a table."},
    {NULL},
};

static int fill(PyObject *module) {
    fill_table();
    return PyModule_AddIntMacro(module, ALL_ROWS) || PyModule_AddIntMacro(module, ALL_BYTES) ||
                   PyModule_AddIntMacro(module, NOT_PLAIN) || PyModule_AddIntMacro(module, DAMAGED)
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kafkapipes.kafka._batches",
    .m_doc = "Record batches into columns, for direct.py.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__batches(void) { return PyModuleDef_Init(&definition); }
