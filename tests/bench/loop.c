/* The loop that an expert writes in C: rd_kafka_consume_batch_queue, each record copied into its row of one array.

   Compiled when it is measured, and linked to the librdkafka inside confluent_kafka's wheel. That wheel has no header,
   so what is used of librdkafka's public interface is declared here. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_topic_partition_list_s rd_kafka_topic_partition_list_t;
typedef struct {
    int err;
    void *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *private_data;
} rd_kafka_message_t;

enum { RD_KAFKA_CONSUMER = 1 };

rd_kafka_conf_t *rd_kafka_conf_new(void);
int rd_kafka_conf_set(rd_kafka_conf_t *, const char *name, const char *value, char *error, size_t error_size);
rd_kafka_t *rd_kafka_new(int type, rd_kafka_conf_t *, char *error, size_t error_size);
int rd_kafka_poll_set_consumer(rd_kafka_t *);
rd_kafka_topic_partition_list_t *rd_kafka_topic_partition_list_new(int size);
void *rd_kafka_topic_partition_list_add(rd_kafka_topic_partition_list_t *, const char *topic, int32_t partition);
int rd_kafka_topic_partition_list_set_offset(rd_kafka_topic_partition_list_t *, const char *, int32_t, int64_t);
void rd_kafka_topic_partition_list_destroy(rd_kafka_topic_partition_list_t *);
int rd_kafka_assign(rd_kafka_t *, const rd_kafka_topic_partition_list_t *);
rd_kafka_queue_t *rd_kafka_queue_get_consumer(rd_kafka_t *);
ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *, int timeout_ms, rd_kafka_message_t **, size_t size);
void rd_kafka_message_destroy(rd_kafka_message_t *);
void rd_kafka_queue_destroy(rd_kafka_queue_t *);
int rd_kafka_consumer_close(rd_kafka_t *);
void rd_kafka_destroy(rd_kafka_t *);

/* A consumer with these properties (name, value, ..., NULL), assigned to the partitions from offset 0; or NULL. */
rd_kafka_t *loop_open(const char *const *properties, const char *topic, int partitions, char *error, size_t size) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (; *properties; properties += 2)
        if (rd_kafka_conf_set(conf, properties[0], properties[1], error, size))
            return NULL;
    rd_kafka_t *client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, size);
    if (!client)
        return NULL;
    rd_kafka_poll_set_consumer(client);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int partition = 0; partition < partitions; partition++) {
        rd_kafka_topic_partition_list_add(list, topic, partition);
        rd_kafka_topic_partition_list_set_offset(list, topic, partition, 0);
    }
    int code = rd_kafka_assign(client, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (!code)
        return client;
    snprintf(error, size, "assign failed with code %d", code);
    return NULL;
}

/* Reads until every row is there; 0, or the code of an error. Row = first row of the partition + offset. */
int loop_read(rd_kafka_t *client, int64_t records, int64_t per_partition, size_t size, size_t batch, uint8_t *values,
              uint8_t *labels) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
    rd_kafka_message_t **messages = malloc(batch * sizeof *messages);
    int code = 0;
    for (int64_t done = 0; done < records && !code;) {
        ssize_t count = rd_kafka_consume_batch_queue(queue, 1000, messages, batch);
        for (ssize_t i = 0; i < count; i++) {
            rd_kafka_message_t *message = messages[i];
            int64_t row = message->partition * per_partition + message->offset;
            if (message->err)
                code = message->err;
            else if (message->offset < per_partition) {
                if (message->len != size || message->key_len != 1)
                    code = 1;
                else {
                    memcpy(values + row * size, message->payload, size);
                    labels[row] = *(uint8_t *)message->key;
                    done++;
                }
            }
            rd_kafka_message_destroy(message);
        }
    }
    free(messages);
    rd_kafka_queue_destroy(queue);
    return code;
}

void loop_close(rd_kafka_t *client) {
    rd_kafka_consumer_close(client);
    rd_kafka_destroy(client);
}
