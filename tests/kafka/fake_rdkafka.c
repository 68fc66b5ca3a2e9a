/* A librdkafka that says what a test has told it, for the client in _native.c: what no broker sends can be sent.
 *
 * It keeps count of what it gave out, so that a test sees what was never freed or freed twice.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef struct {
    int err;
    void *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *_private;
} message;

typedef struct {
    message told; /* first: a pointer to one is a pointer to the other */
    int32_t epoch;
    int alive, ends_fetch; /* such an item is no message */
    char topic[32], text[64];
} scripted;

typedef struct {
    char *topic;
    int32_t partition;
    int64_t offset;
    void *metadata;
    size_t metadata_size;
    void *opaque;
    int err;
    void *_private;
} place;

typedef struct {
    int cnt, size;
    place *elems;
} place_list;

#define MOST 100000
static scripted script[MOST];
static int next, after_seek = MOST, length;
int fake_alive, fake_freed_twice, fake_version = 0x021000ff, fake_last_error, fake_got = -2;
int64_t fake_assigned = -1, fake_sought = -1, fake_sought_epoch = -1;
static place one;
static place_list list = {1, 1, &one};

/* What consume is to give; a payload or key of NULL is a null. */
void fake_push(int err, const char *topic, int32_t partition, int64_t offset, int32_t epoch, const void *value,
               size_t value_length, const void *key, size_t key_length, const char *text) {
    scripted *item = &script[length++];
    memset(item, 0, sizeof *item);
    strncpy(item->topic, topic, sizeof item->topic - 1);
    strncpy(item->text, text, sizeof item->text - 1);
    item->told = (message){err, item->topic, partition, (void *)value, value_length, (void *)key, key_length, offset, 0};
    item->epoch = epoch;
}
void fake_end_fetch(void) { script[length++] = (scripted){.ends_fetch = 1}; }
void fake_after_seek(void) { after_seek = length; }
void fake_forget(void) {
    next = length = fake_alive = fake_freed_twice = fake_last_error = 0;
    after_seek = MOST;
    fake_got = -2;
    fake_assigned = fake_sought = fake_sought_epoch = -1;
}

int rd_kafka_version(void) { return fake_version; }
int rd_kafka_last_error(void) { return fake_last_error; }
const char *rd_kafka_err2str(int code) { return code ? "as the fake says" : "Success"; }
const char *rd_kafka_name(const void *client) { return "fake#consumer-1"; }

static void *give(void) {
    fake_alive++;
    return malloc(1);
}
static void take(void *given) {
    fake_alive--;
    free(given);
}
void *rd_kafka_conf_new(void) { return give(); }
void rd_kafka_conf_destroy(void *conf) { take(conf); }
int rd_kafka_conf_set(void *conf, const char *name, const char *value, char *why, size_t size) {
    if (strcmp(name, "refused"))
        return 0;
    strncpy(why, value, size - 1);
    return -1;
}
void rd_kafka_conf_set_events(void *conf, int events) {}
void *rd_kafka_new(int type, void *conf, char *why, size_t size) {
    if (fake_last_error) {
        strncpy(why, "not today", size - 1);
        return NULL;
    }
    take(conf);
    return give();
}
void rd_kafka_destroy_flags(void *client, int flags) { take(client); }
int rd_kafka_set_log_queue(void *client, void *queue) { return 0; }
void *rd_kafka_queue_get_main(void *client) { return give(); }
void *rd_kafka_queue_get_consumer(void *client) { return give(); }
void rd_kafka_queue_destroy(void *queue) { take(queue); }
void *rd_kafka_queue_poll(void *queue, int timeout_ms) { return NULL; }
int rd_kafka_event_type(const void *event) { return 0; }
int rd_kafka_event_error(void *event) { return 0; }
const char *rd_kafka_event_error_string(void *event) { return ""; }
int rd_kafka_event_log(void *event, const char **facility, const char **line, int *level) { return -1; }
const char *rd_kafka_event_stats(void *event) { return ""; }
void rd_kafka_event_destroy(void *event) {}

place_list *rd_kafka_topic_partition_list_new(int size) {
    fake_alive++;
    return &list;
}
place *rd_kafka_topic_partition_list_add(place_list *of, const char *topic, int32_t partition) { return &one; }
void rd_kafka_topic_partition_list_destroy(place_list *of) { fake_alive--; }
void rd_kafka_topic_partition_set_leader_epoch(place *of, int32_t epoch) { fake_sought_epoch = epoch; }
int rd_kafka_assign(void *client, const place_list *to) {
    fake_assigned = to ? to->elems->offset : -1;
    return fake_last_error;
}
void *rd_kafka_seek_partitions(void *client, place_list *to, int timeout_ms) {
    fake_sought = to->elems->offset;
    to->elems->err = fake_last_error;
    next = after_seek < MOST ? after_seek : next;
    return NULL;
}
int rd_kafka_error_code(const void *error) { return 0; }
void rd_kafka_error_destroy(void *error) {}

ssize_t rd_kafka_consume_batch_queue(void *queue, int timeout_ms, message **messages, size_t size) {
    size_t got = 0;
    int end = next < after_seek ? (after_seek < length ? after_seek : length) : length;
    if (fake_got > -2)
        return fake_got;
    while (got < size && next < end && !script[next].ends_fetch) {
        script[next].alive = 1;
        fake_alive++;
        messages[got++] = &script[next++].told;
    }
    next += next < end && script[next].ends_fetch;
    return (ssize_t)got;
}
void rd_kafka_message_destroy(message *of) {
    scripted *item = (scripted *)of;
    fake_freed_twice += !item->alive;
    fake_alive -= item->alive;
    item->alive = 0;
}
const char *rd_kafka_message_errstr(const message *of) { return ((const scripted *)of)->text; }
int32_t rd_kafka_message_leader_epoch(const message *of) { return ((const scripted *)of)->epoch; }
int64_t rd_kafka_message_timestamp(const message *of, int *type) { return of->offset * 1000; }
int rd_kafka_message_headers(const message *of, void **headers) {
    *headers = (void *)of;
    return of->key ? 0 : -1;
}
int rd_kafka_header_get_all(const void *headers, size_t place, const char **name, const void **value, size_t *size) {
    const message *of = headers; /* one header, the key */
    *name = "key";
    *value = of->key;
    *size = of->key_len;
    return place > 0;
}
const char *rd_kafka_topic_name(const void *topic) { return topic; }
