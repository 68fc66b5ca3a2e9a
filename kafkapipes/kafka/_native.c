/* A consumer of librdkafka that fills columns, where confluent_kafka's makes one object a record.
 *
 * It drives the library that confluent_kafka itself has loaded, found and loaded at run time, by that library's documented
 * interface (rdkafka.h, major version 2), whose few declarations stand below. Protocol, TLS, SASL and compression stay
 * there; what to make of records and errors is told in Python.
 *
 * - No thread of librdkafka ever calls Python: errors, log lines and statistics wait in a queue until `events` takes them.
 * - Each object of librdkafka has one owner, the Consumer that made it or was handed it, and is freed once. In a process
 *   that inherited a Consumer by a fork nothing is used and nothing freed.
 * - While the GIL is released `busy` is set, and any other call is refused.
 * - Whatever the arguments, nothing is written outside the buffers that came with them.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_event_s rd_kafka_event_t;
typedef struct rd_kafka_error_s rd_kafka_error_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;

typedef struct {
    int err;
    rd_kafka_topic_t *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *_private;
} rd_kafka_message_t;

typedef struct {
    char *topic;
    int32_t partition;
    int64_t offset;
    void *metadata;
    size_t metadata_size;
    void *opaque;
    int err;
    void *_private;
} rd_kafka_topic_partition_t;

typedef struct {
    int cnt;
    int size;
    rd_kafka_topic_partition_t *elems;
} rd_kafka_topic_partition_list_t;

enum {
    RD_KAFKA_CONSUMER = 1,
    RD_KAFKA_EVENT_LOG = 0x4,
    RD_KAFKA_EVENT_ERROR = 0x8,
    RD_KAFKA_EVENT_STATS = 0x40,
    RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE = 0x8, /* there is no group to leave, and nothing to commit */
    RD_KAFKA_RESP_ERR__INVALID_ARG = -186,
    NULL_LENGTH = -1,
    UNKNOWN_LENGTH = -2,
    LONGEST_TOPIC = 249,
    MOST_RECORDS = 1000000, /* librdkafka's bound on one call */
    MOST_EVENTS = 1000,     /* taken at once: a client may log without end */
    CHUNK = 500,            /* records laid at once: few enough to be in the processor's cache still */
};

/* result, name without rd_kafka_, parameters */
#define FUNCTIONS(X) \
    X(int, version, (void)) \
    X(rd_kafka_conf_t *, conf_new, (void)) \
    X(void, conf_destroy, (rd_kafka_conf_t *)) \
    X(int, conf_set, (rd_kafka_conf_t *, const char *, const char *, char *, size_t)) \
    X(void, conf_set_events, (rd_kafka_conf_t *, int)) \
    X(rd_kafka_t *, new, (int, rd_kafka_conf_t *, char *, size_t)) \
    X(const char *, name, (const rd_kafka_t *)) \
    X(void, destroy_flags, (rd_kafka_t *, int)) \
    X(int, last_error, (void)) \
    X(const char *, err2str, (int)) \
    X(int, set_log_queue, (rd_kafka_t *, rd_kafka_queue_t *)) \
    X(rd_kafka_queue_t *, queue_get_main, (rd_kafka_t *)) \
    X(rd_kafka_queue_t *, queue_get_consumer, (rd_kafka_t *)) \
    X(rd_kafka_event_t *, queue_poll, (rd_kafka_queue_t *, int)) \
    X(void, queue_destroy, (rd_kafka_queue_t *)) \
    X(int, event_type, (const rd_kafka_event_t *)) \
    X(int, event_error, (rd_kafka_event_t *)) \
    X(const char *, event_error_string, (rd_kafka_event_t *)) \
    X(int, event_log, (rd_kafka_event_t *, const char **, const char **, int *)) \
    X(const char *, event_stats, (rd_kafka_event_t *)) \
    X(void, event_destroy, (rd_kafka_event_t *)) \
    X(rd_kafka_topic_partition_list_t *, topic_partition_list_new, (int)) \
    X(rd_kafka_topic_partition_t *, topic_partition_list_add, \
      (rd_kafka_topic_partition_list_t *, const char *, int32_t)) \
    X(void, topic_partition_list_destroy, (rd_kafka_topic_partition_list_t *)) \
    X(void, topic_partition_set_leader_epoch, (rd_kafka_topic_partition_t *, int32_t)) \
    X(int, assign, (rd_kafka_t *, const rd_kafka_topic_partition_list_t *)) \
    X(rd_kafka_error_t *, seek_partitions, (rd_kafka_t *, rd_kafka_topic_partition_list_t *, int)) \
    X(int, error_code, (const rd_kafka_error_t *)) \
    X(void, error_destroy, (rd_kafka_error_t *)) \
    X(ssize_t, consume_batch_queue, (rd_kafka_queue_t *, int, rd_kafka_message_t **, size_t)) \
    X(void, message_destroy, (rd_kafka_message_t *)) \
    X(const char *, message_errstr, (const rd_kafka_message_t *)) \
    X(int32_t, message_leader_epoch, (const rd_kafka_message_t *)) \
    X(int64_t, message_timestamp, (const rd_kafka_message_t *, int *)) \
    X(int, message_headers, (const rd_kafka_message_t *, rd_kafka_headers_t **)) \
    X(int, header_get_all, (const rd_kafka_headers_t *, size_t, const char **, const void **, size_t *)) \
    X(const char *, topic_name, (const rd_kafka_topic_t *))

typedef struct {
#define X(result, name, parameters) result(*name) parameters;
    FUNCTIONS(X)
#undef X
} Library;

typedef struct {
    rd_kafka_message_t *message;
    Py_ssize_t row; /* records that came before it */
} Word;

typedef struct {
    PyObject_HEAD
    Library library;
    pid_t owner;
    bool busy;
    rd_kafka_t *client; /* NULL once closed */
    rd_kafka_queue_t *records, *events;
    char topic[LONGEST_TOPIC + 1]; /* assigned */
    int32_t partition;
    Py_ssize_t room, held, words; /* room of both arrays; what of them is owned now */
    rd_kafka_message_t **message; /* the records of the last fetch from the first that was not laid */
    Word *word;
} Consumer;

/* Memory that byte strings are laid into, end to end; while they are laid as they come, each of the length expected. */
typedef struct {
    char *at;
    size_t left;
    int64_t length;
} Lane;

/* The arrays of one fetch, and what is in them. */
typedef struct {
    int64_t *offsets, *key_lengths, *value_lengths, *timestamps; /* timestamps: or NULL */
    int32_t *epochs;
    Lane keys, values;
    bool laying;
    Py_ssize_t records, rows, laid; /* asked for; come; of these, how many lie in the lanes */
    Py_ssize_t stray;               /* the first record that is not from what was assigned, or -1 */
    char stray_topic[LONGEST_TOPIC + 1];
    int32_t stray_partition;
} Columns;

static PyObject *text(const char *utf8) {
    return PyUnicode_DecodeUTF8(utf8 ? utf8 : "", utf8 ? (Py_ssize_t)strlen(utf8) : 0, "replace");
}

/* Raise _native.Error(code, text). */
static void *fail(Consumer *self, int code, const char *prefix, const char *why) {
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    PyObject *error = module ? PyObject_GetAttrString(module, "Error") : NULL;
    PyObject *reason = error ? text(why) : NULL;
    PyObject *arguments = reason ? Py_BuildValue("(iN)", code, PyUnicode_FromFormat("%s%U", prefix, reason)) : NULL;
    if (arguments)
        PyErr_SetObject(error, arguments);
    Py_XDECREF(arguments);
    Py_XDECREF(reason);
    Py_XDECREF(error);
    return NULL;
}

/* The handle stays open: threads of the library may outlive any object here. */
static bool load(Library *library, PyObject *path) {
    void *handle = dlopen(PyBytes_AsString(path), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        PyErr_Format(PyExc_OSError, "%s", dlerror());
        return false;
    }
#define X(result, name, parameters) \
    if (!(*(void **)&library->name = dlsym(handle, "rd_kafka_" #name))) { \
        PyErr_Format(PyExc_OSError, "%s has no rd_kafka_" #name, PyBytes_AsString(path)); \
        return false; \
    }
    FUNCTIONS(X)
#undef X
    return true;
}

static PyObject *version(PyObject *module, PyObject *name) {
    Library library;
    PyObject *path;
    if (!PyUnicode_FSConverter(name, &path))
        return NULL;
    bool loaded = load(&library, path);
    Py_DECREF(path);
    return loaded ? PyLong_FromLong(library.version()) : NULL;
}

static void drop(Consumer *self) {
    while (self->held)
        self->library.message_destroy(self->message[--self->held]);
    while (self->words)
        self->library.message_destroy(self->word[--self->words].message);
}

/* End the client and its threads; may wait for them. */
static void end(Consumer *self) {
    rd_kafka_t *client = self->client;
    self->client = NULL;
    if (!client || self->owner != getpid())
        return;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    drop(self);
    self->library.queue_destroy(self->records);
    self->library.queue_destroy(self->events);
    self->library.destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    Py_END_ALLOW_THREADS
    self->busy = false;
}

static bool usable(const Consumer *self) {
    if (self->busy)
        PyErr_SetString(PyExc_RuntimeError, "this consumer is in use by another thread");
    else if (!self->client)
        PyErr_SetString(PyExc_RuntimeError, "this consumer is closed");
    else if (self->owner != getpid())
        PyErr_Format(PyExc_RuntimeError, "this consumer belongs to process %ld", (long)self->owner);
    else
        return true;
    return false;
}

static bool set(Consumer *self, rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[512] = "";
    if (self->library.conf_set(conf, name, value, why, sizeof why) == 0)
        return true;
    fail(self, RD_KAFKA_RESP_ERR__INVALID_ARG, "", why);
    return false;
}

static bool set_all(Consumer *self, rd_kafka_conf_t *conf, PyObject *properties) {
    PyObject *iterator = PyObject_GetIter(properties), *item;
    if (!iterator)
        return false;
    bool good = true;
    while (good && (item = PyIter_Next(iterator))) {
        const char *name, *value;
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "wanted properties as (name, value) tuples");
            good = false;
        } else
            good = PyArg_ParseTuple(item, "ss", &name, &value) && set(self, conf, name, value);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return good && !PyErr_Occurred() && set(self, conf, "log.queue", "true");
}

static bool start(Consumer *self, PyObject *properties) {
    Library *library = &self->library;
    char why[512] = "";
    int code = 0;
    rd_kafka_t *client;
    rd_kafka_conf_t *conf = library->conf_new();
    if (!set_all(self, conf, properties)) {
        library->conf_destroy(conf);
        return false;
    }
    library->conf_set_events(conf, RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_STATS);
    Py_BEGIN_ALLOW_THREADS
    client = library->new (RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (client) {
        library->set_log_queue(client, NULL);
        self->records = library->queue_get_consumer(client);
        self->events = library->queue_get_main(client);
    } else {
        code = library->last_error();
        library->conf_destroy(conf);
    }
    Py_END_ALLOW_THREADS
    self->client = client;
    return client || fail(self, code, "Failed to create consumer: ", why);
}

static PyObject *consumer_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *path, *properties;
    if (named && PyDict_Size(named)) {
        PyErr_SetString(PyExc_TypeError, "Consumer takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O&O:Consumer", PyUnicode_FSConverter, &path, &properties))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Consumer *self = (Consumer *)allocate(type, 0); /* all zero */
    bool started = false;
    if (self) {
        self->owner = getpid();
        started = load(&self->library, path) && start(self, properties);
    }
    Py_DECREF(path);
    if (!started)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void consumer_dealloc(Consumer *self) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    end(self);
    PyErr_Restore(type, value, trace);
    free(self->message);
    free(self->word);
    PyTypeObject *own = Py_TYPE((PyObject *)self);
    ((freefunc)PyType_GetSlot(own, Py_tp_free))(self);
    Py_DECREF(own);
}

static PyObject *consumer_close(Consumer *self, PyObject *unused) {
    if (self->client && self->owner == getpid() && !usable(self))
        return NULL;
    end(self);
    Py_RETURN_NONE;
}

static rd_kafka_topic_partition_list_t *place(Library *library, const char *topic, int partition, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = library->topic_partition_list_new(1);
    library->topic_partition_list_add(list, topic, partition)->offset = offset;
    return list;
}

static PyObject *consumer_assign(Consumer *self, PyObject *args) {
    const char *topic;
    int partition, code;
    long long offset;
    if (!PyArg_ParseTuple(args, "siL:assign", &topic, &partition, &offset) || !usable(self))
        return NULL;
    if (strlen(topic) > LONGEST_TOPIC) {
        PyErr_SetString(PyExc_ValueError, "wanted a topic of at most 249 characters");
        return NULL;
    }
    drop(self);
    strcpy(self->topic, topic);
    self->partition = partition;
    rd_kafka_topic_partition_list_t *list = place(&self->library, topic, partition, offset);
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    code = self->library.assign(self->client, list);
    Py_END_ALLOW_THREADS
    self->busy = false;
    self->library.topic_partition_list_destroy(list);
    return code ? fail(self, code, "", self->library.err2str(code)) : Py_NewRef(Py_None);
}

static PyObject *consumer_unassign(Consumer *self, PyObject *unused) {
    int code;
    if (!usable(self))
        return NULL;
    drop(self);
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    code = self->library.assign(self->client, NULL);
    Py_END_ALLOW_THREADS
    self->busy = false;
    return code ? fail(self, code, "", self->library.err2str(code)) : Py_NewRef(Py_None);
}

static PyObject *consumer_seek(Consumer *self, PyObject *args) {
    const char *topic;
    int partition, epoch, timeout_ms, code;
    long long offset;
    if (!PyArg_ParseTuple(args, "siLii:seek", &topic, &partition, &offset, &epoch, &timeout_ms) || !usable(self))
        return NULL;
    drop(self);
    rd_kafka_topic_partition_list_t *list = place(&self->library, topic, partition, offset);
    self->library.topic_partition_set_leader_epoch(list->elems, epoch);
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    rd_kafka_error_t *error = self->library.seek_partitions(self->client, list, timeout_ms);
    code = error ? self->library.error_code(error) : list->elems->err;
    if (error)
        self->library.error_destroy(error);
    Py_END_ALLOW_THREADS
    self->busy = false;
    self->library.topic_partition_list_destroy(list);
    return code ? fail(self, code, "", self->library.err2str(code)) : Py_NewRef(Py_None);
}

static bool make_room(Consumer *self, Py_ssize_t records) {
    if (records <= self->room)
        return true;
    rd_kafka_message_t **message = realloc(self->message, records * sizeof *message);
    self->message = message ? message : self->message;
    Word *word = realloc(self->word, records * sizeof *word);
    self->word = word ? word : self->word;
    if (!message || !word) {
        PyErr_NoMemory();
        return false;
    }
    self->room = records;
    return true;
}

static bool put(Lane *lane, const void *bytes, size_t length) {
    if (!bytes)
        return true;
    if (length > lane->left)
        return false;
    memcpy(lane->at, bytes, length);
    lane->at += length;
    lane->left -= length;
    return true;
}

static int64_t length_of(const void *bytes, size_t length) { return bytes ? (int64_t)length : NULL_LENGTH; }

static bool expected(const Lane *lane, int64_t length) {
    return length == lane->length && (length <= 0 || (size_t)length <= lane->left);
}

/* Note a record that is not from what was assigned. `known` is a topic that was found to be the one. */
static void check_origin(
    Consumer *self, Columns *columns, const rd_kafka_message_t *message, const rd_kafka_topic_t **known) {
    if (columns->stray >= 0 || (message->rkt == *known && message->partition == self->partition))
        return;
    const char *topic = self->library.topic_name(message->rkt);
    if (message->partition == self->partition && strcmp(topic, self->topic) == 0) {
        *known = message->rkt;
        return;
    }
    columns->stray = columns->rows;
    columns->stray_partition = message->partition;
    strncpy(columns->stray_topic, topic, LONGEST_TOPIC);
}

/* Take in what came: records, which are laid or held, and words. */
static void take(Consumer *self, Columns *columns, rd_kafka_message_t **message, ssize_t got) {
    Library *library = &self->library;
    const rd_kafka_topic_t *known = NULL;
    int kind;
    for (ssize_t i = 0; i < got; i++) {
        rd_kafka_message_t *one = message[i];
        Py_ssize_t row = columns->rows;
        if (one->err) {
            self->word[self->words++] = (Word){one, row};
            continue;
        }
        check_origin(self, columns, one, &known);
        columns->offsets[row] = one->offset;
        columns->epochs[row] = library->message_leader_epoch(one);
        columns->key_lengths[row] = length_of(one->key, one->key_len);
        columns->value_lengths[row] = length_of(one->payload, one->len);
        if (columns->timestamps)
            columns->timestamps[row] = library->message_timestamp(one, &kind);
        columns->laying = columns->laying && expected(&columns->keys, columns->key_lengths[row]) &&
                          expected(&columns->values, columns->value_lengths[row]);
        columns->rows++;
        if (columns->laying) {
            put(&columns->keys, one->key, one->key_len);
            put(&columns->values, one->payload, one->len);
            library->message_destroy(one);
            columns->laid++;
        } else
            self->message[self->held++] = one;
    }
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Consume until all records are there, the time has passed, a word came, or a record was not laid; false: an error. */
static bool consume(Consumer *self, Columns *columns, int timeout_ms) {
    int64_t deadline = milliseconds() + timeout_ms;
    for (;;) {
        Py_ssize_t wanted = columns->records - columns->rows;
        if (columns->laying && wanted > CHUNK)
            wanted = CHUNK;
        ssize_t got = self->library.consume_batch_queue(self->records, timeout_ms, self->message, (size_t)wanted);
        if (got < 0)
            return columns->rows > 0; /* it will fail again, with nothing to lose */
        take(self, columns, self->message, got);
        timeout_ms = (int)(deadline - milliseconds());
        if (got < wanted || columns->rows == columns->records || !columns->laying || self->words || timeout_ms <= 0)
            return true;
    }
}

/* The words as a list of (row, code, text, topic, partition, offset); they are freed. */
static PyObject *spoken(Consumer *self) {
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < self->words; i++) {
        const rd_kafka_message_t *message = self->word[i].message;
        PyObject *topic = message->rkt ? text(self->library.topic_name(message->rkt)) : Py_NewRef(Py_None);
        PyObject *word = Py_BuildValue(
            "(niNNiL)", self->word[i].row, message->err, text(self->library.message_errstr(message)), topic,
            (int)message->partition, (long long)message->offset);
        if (!word || PyList_Append(list, word) < 0)
            Py_CLEAR(list);
        Py_XDECREF(word);
    }
    while (self->words)
        self->library.message_destroy(self->word[--self->words].message);
    return list;
}

static bool holds(const Py_buffer *buffer, Py_ssize_t count, size_t size) {
    return buffer->len == count * (Py_ssize_t)size && (uintptr_t)buffer->buf % size == 0;
}

static PyObject *fetch_into(Consumer *self, Columns *columns, int timeout_ms) {
    bool fetched;
    int code = 0;
    if (!usable(self) || !make_room(self, columns->records))
        return NULL;
    columns->laying = columns->keys.length != UNKNOWN_LENGTH && columns->values.length != UNKNOWN_LENGTH;
    columns->stray = -1;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    drop(self);
    fetched = consume(self, columns, timeout_ms);
    if (!fetched)
        code = self->library.last_error();
    Py_END_ALLOW_THREADS
    self->busy = false;
    if (!fetched)
        return fail(self, code, "", self->library.err2str(code));
    PyObject *words = spoken(self);
    PyObject *stray =
        columns->stray < 0
            ? Py_NewRef(Py_None)
            : Py_BuildValue("(nNi)", columns->stray, text(columns->stray_topic), (int)columns->stray_partition);
    return Py_BuildValue("(nnNN)", columns->rows, columns->laid, stray, words);
}

/* offsets, key lengths, value lengths, epochs, keys, values, timestamps */
enum { OFFSETS, KEY_LENGTHS, VALUE_LENGTHS, EPOCHS, KEYS, VALUES, TIMESTAMPS, BUFFERS };

static bool fits_together(const Py_buffer *buffer, int timeout_ms) {
    Py_ssize_t records = buffer[OFFSETS].len / (Py_ssize_t)sizeof(int64_t);
    const Py_buffer *timestamps = &buffer[TIMESTAMPS];
    if (timeout_ms >= 0 && records >= 1 && records <= MOST_RECORDS &&
        holds(&buffer[OFFSETS], records, sizeof(int64_t)) && holds(&buffer[KEY_LENGTHS], records, sizeof(int64_t)) &&
        holds(&buffer[VALUE_LENGTHS], records, sizeof(int64_t)) && holds(&buffer[EPOCHS], records, sizeof(int32_t)) &&
        (!timestamps->buf || holds(timestamps, records, sizeof(int64_t))))
        return true;
    PyErr_SetString(PyExc_ValueError, "wanted a time, three int64 and an int32 array of one length, 1 to 1000000");
    return false;
}

static PyObject *consumer_fetch(Consumer *self, PyObject *args) {
    int timeout_ms;
    long long key_length, value_length;
    Py_buffer buffer[BUFFERS] = {{0}};
    PyObject *timestamps = Py_None, *found = NULL;
    if (!PyArg_ParseTuple(
            args, "iw*w*w*w*w*Lw*L|O:fetch", &timeout_ms, &buffer[OFFSETS], &buffer[KEY_LENGTHS],
            &buffer[VALUE_LENGTHS], &buffer[EPOCHS], &buffer[KEYS], &key_length, &buffer[VALUES], &value_length,
            &timestamps))
        return NULL; /* what was parsed is released by then */
    if ((timestamps == Py_None || PyObject_GetBuffer(timestamps, &buffer[TIMESTAMPS], PyBUF_WRITABLE) == 0) &&
        fits_together(buffer, timeout_ms)) {
        Columns columns = {
            .offsets = buffer[OFFSETS].buf,
            .key_lengths = buffer[KEY_LENGTHS].buf,
            .value_lengths = buffer[VALUE_LENGTHS].buf,
            .timestamps = buffer[TIMESTAMPS].buf,
            .epochs = buffer[EPOCHS].buf,
            .keys = {buffer[KEYS].buf, (size_t)buffer[KEYS].len, key_length},
            .values = {buffer[VALUES].buf, (size_t)buffer[VALUES].len, value_length},
            .records = buffer[OFFSETS].len / (Py_ssize_t)sizeof(int64_t),
        };
        found = fetch_into(self, &columns, timeout_ms);
    }
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(&buffer[i]); /* which is nothing where there is none */
    return found;
}

static bool has_rows(const Consumer *self, Py_ssize_t rows) {
    if (!usable(self))
        return false;
    if (rows >= 0 && rows <= self->held)
        return true;
    PyErr_Format(PyExc_IndexError, "wanted %zd record(s), found %zd", rows, self->held);
    return false;
}

/* The headers of one record as a list of (name, value or None). */
static PyObject *headers_of(Library *library, const rd_kafka_message_t *message) {
    rd_kafka_headers_t *headers;
    const char *name;
    const void *value;
    size_t length;
    PyObject *list = PyList_New(0);
    if (!list || library->message_headers(message, &headers)) /* which fails where there are none */
        return list;
    for (size_t i = 0; list && !library->header_get_all(headers, i, &name, &value, &length); i++) {
        PyObject *item = value ? PyBytes_FromStringAndSize(value, (Py_ssize_t)length) : Py_NewRef(Py_None);
        PyObject *pair = item ? Py_BuildValue("(sN)", name, item) : NULL;
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

static PyObject *consumer_headers(Consumer *self, PyObject *args) {
    Py_ssize_t rows;
    if (!PyArg_ParseTuple(args, "n:headers", &rows) || !has_rows(self, rows))
        return NULL;
    PyObject *all = PyList_New(rows);
    for (Py_ssize_t row = 0; all && row < rows; row++) {
        PyObject *headers = headers_of(&self->library, self->message[row]);
        if (!headers || PyList_SetItem(all, row, headers) < 0)
            Py_CLEAR(all);
    }
    return all;
}

/* Copy the first records held, and free all; false unless keys and values fill their lanes exactly. */
static bool copy(Consumer *self, Py_ssize_t rows, Lane *keys, Lane *values) {
    bool fits = true;
    for (Py_ssize_t row = 0; row < self->held; row++) {
        rd_kafka_message_t *message = self->message[row];
        fits = fits && (row >= rows || (put(keys, message->key, message->key_len) &&
                                        put(values, message->payload, message->len)));
        self->library.message_destroy(message);
    }
    self->held = 0;
    return fits && keys->left == 0 && values->left == 0;
}

static PyObject *copy_into(Consumer *self, Py_ssize_t rows, Lane keys, Lane values) {
    bool fits;
    if (!has_rows(self, rows))
        return NULL;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    fits = copy(self, rows, &keys, &values);
    Py_END_ALLOW_THREADS
    self->busy = false;
    if (fits)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "wanted buffers of exactly the size of all keys and of all values");
    return NULL;
}

static PyObject *consumer_copy(Consumer *self, PyObject *args) {
    Py_ssize_t rows;
    Py_buffer keys, values;
    if (!PyArg_ParseTuple(args, "nw*w*:copy", &rows, &keys, &values))
        return NULL;
    PyObject *copied = copy_into(
        self, rows, (Lane){keys.buf, (size_t)keys.len, UNKNOWN_LENGTH},
        (Lane){values.buf, (size_t)values.len, UNKNOWN_LENGTH});
    PyBuffer_Release(&keys);
    PyBuffer_Release(&values);
    return copied;
}

static PyObject *consumer_drop(Consumer *self, PyObject *unused) {
    if (!usable(self))
        return NULL;
    drop(self);
    Py_RETURN_NONE;
}

/* One event as (kind, ...); None for one that nobody asked for. */
static PyObject *told(Consumer *self, rd_kafka_event_t *event) {
    Library *library = &self->library;
    const char *facility, *line;
    int level;
    switch (library->event_type(event)) {
    case RD_KAFKA_EVENT_ERROR:
        return Py_BuildValue(
            "(siN)", "error", library->event_error(event), text(library->event_error_string(event)));
    case RD_KAFKA_EVENT_STATS:
        return Py_BuildValue("(sN)", "statistics", text(library->event_stats(event)));
    case RD_KAFKA_EVENT_LOG:
        if (library->event_log(event, &facility, &line, &level) == 0)
            return Py_BuildValue(
                "(siNNN)", "log", level, text(facility), text(library->name(self->client)), text(line));
    }
    return Py_NewRef(Py_None);
}

static PyObject *consumer_events(Consumer *self, PyObject *unused) {
    rd_kafka_event_t *event;
    if (!usable(self))
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < MOST_EVENTS && (event = self->library.queue_poll(self->events, 0)); i++) {
        PyObject *item = told(self, event);
        self->library.event_destroy(event);
        if (!item || (item != Py_None && PyList_Append(list, item) < 0))
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyMethodDef consumer_methods[] = {
    {"assign", (PyCFunction)consumer_assign, METH_VARARGS, "assign(topic, partition, offset): read this partition only."},
    {"unassign", (PyCFunction)consumer_unassign, METH_NOARGS, "Read nothing."},
    {"seek", (PyCFunction)consumer_seek, METH_VARARGS,
     "seek(topic, partition, offset, epoch, timeout_ms): go on there, if the broker knows it under that leader epoch."},
    {"fetch", (PyCFunction)consumer_fetch, METH_VARARGS,
     "fetch(timeout_ms, offsets, key_lengths, value_lengths, epochs, keys, key_length, values, value_length,\n"
     "      timestamps=None) -> (rows, laid, stray, words)\n\n"
     "At most as many records as the first four arrays hold. As long as each key and value has the length expected (-1\n"
     "for a null, -2 for none) and its buffer has room, they are laid there end to end; `laid` tells how many were. The\n"
     "others are held until copied, or the next call. `stray` is (row, topic, partition) of the first record that was\n"
     "not assigned, or None. A word is (row, code, text, topic, partition, offset)."},
    {"headers", (PyCFunction)consumer_headers, METH_VARARGS,
     "headers(rows): for each of the first records held its (name, value) pairs."},
    {"copy", (PyCFunction)consumer_copy, METH_VARARGS,
     "copy(rows, keys, values): the first records held, end to end, into buffers that they fill exactly; all are freed."},
    {"drop", (PyCFunction)consumer_drop, METH_NOARGS, "Free the records held."},
    {"events", (PyCFunction)consumer_events, METH_NOARGS,
     "What the client has said: (\"error\", code, text), (\"statistics\", json), (\"log\", level, facility, name, line)."},
    {"close", (PyCFunction)consumer_close, METH_NOARGS, "End the client; in a fork, nothing."},
    {NULL},
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "Consumer(path, properties): a consumer of the librdkafka at a path; properties as (name, value) texts."},
    {Py_tp_new, consumer_new},
    {Py_tp_dealloc, consumer_dealloc},
    {Py_tp_methods, consumer_methods},
    {0, NULL},
};

static PyType_Spec consumer_spec = {
    .name = "kafkapipes.kafka._native.Consumer",
    .basicsize = sizeof(Consumer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = consumer_slots,
};

static int fill(PyObject *module) {
    PyObject *error = PyErr_NewException("kafkapipes.kafka._native.Error", NULL, NULL);
    int added = error ? PyModule_AddObjectRef(module, "Error", error) : -1;
    Py_XDECREF(error);
    PyObject *type = added == 0 ? PyType_FromModuleAndSpec(module, &consumer_spec, NULL) : NULL;
    added = type ? PyModule_AddObjectRef(module, "Consumer", type) : -1;
    Py_XDECREF(type);
    return added;
}

static PyMethodDef functions[] = {
    {"version", version, METH_O, "version(path): that of the librdkafka at a path, 0xMMmmrrxx; OSError where it is none."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kafkapipes.kafka._native",
    .m_doc = "The consumer of native.py, in C.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
